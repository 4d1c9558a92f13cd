"""Exported files of any format, as predictors."""

import os
import pathlib

from deeplab.inference import litert
from deeplab.inference import onnx

FORMATS: dict[str, type[litert.TFLitePredictor]] = {
  '.tflite': litert.TFLitePredictor,
  '.onnx': onnx.ONNXPredictor,
}


def load(path: str | os.PathLike) -> litert.TFLitePredictor:
  """Returns the predictor of a file by its ending.

  Raises:
    ValueError: an unknown ending, and what the predictors raise.
  """
  ending = pathlib.Path(path).suffix
  if ending not in FORMATS:
    raise ValueError(f'{path} does not end in one of {", ".join(FORMATS)}')
  return FORMATS[ending](path)
