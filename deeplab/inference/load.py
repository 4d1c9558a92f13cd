"""Loads exported files of any format as predictors."""

import os
import pathlib

from deeplab.inference import file_predictor
from deeplab.inference import litert
from deeplab.inference import model_card
from deeplab.inference import onnx

# The predictor of each file format. `tflm.TFLMPredictor` reads .tflite files
# too, but is constructed by name, because it is slow.
PREDICTOR_CLASSES: dict[str, type[file_predictor.FilePredictor]] = {
  '.tflite': litert.TFLitePredictor,
  '.onnx': onnx.ONNXPredictor,
}


def is_exported_file(path: str | os.PathLike) -> bool:
  """Returns True for a file of a known suffix with its model card beside it."""
  return (
    pathlib.Path(path).suffix in PREDICTOR_CLASSES
    and model_card.card_path(path).is_file()
  )


def load_predictor(path: str | os.PathLike) -> file_predictor.FilePredictor:
  """Loads an exported file with the runtime of its suffix.

  Args:
    path: NAME.tflite or NAME.onnx; NAME.json beside it is its model card.

  Raises:
    ValueError: the suffix is unknown, the file is absent or damaged, or its
      model card is absent or belongs to another file.
  """
  suffix = pathlib.Path(path).suffix
  if suffix not in PREDICTOR_CLASSES:
    raise ValueError(
      f'{path} does not end in one of {", ".join(PREDICTOR_CLASSES)}'
    )
  return PREDICTOR_CLASSES[suffix](path)
