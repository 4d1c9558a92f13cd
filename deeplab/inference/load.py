"""Exported files of any format, as predictors."""

import os
import pathlib

from deeplab.inference import litert
from deeplab.inference import onnx

PREDICTOR_CLASSES: dict[str, type[litert.TFLitePredictor]] = {
  '.tflite': litert.TFLitePredictor,
  '.onnx': onnx.ONNXPredictor,
}


def load_predictor(path: str | os.PathLike) -> litert.TFLitePredictor:
  """Returns the predictor of a file by its ending.

  Raises:
    ValueError: an unknown ending, and what the predictors raise.
  """
  ending = pathlib.Path(path).suffix
  if ending not in PREDICTOR_CLASSES:
    raise ValueError(
      f'{path} does not end in one of {", ".join(PREDICTOR_CLASSES)}'
    )
  return PREDICTOR_CLASSES[ending](path)
