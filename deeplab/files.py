"""Exported files of any format, as predictors."""

import os
import pathlib

from deeplab import litert
from deeplab import onnx_file

FORMATS: dict[str, type[litert.TFLitePredictor]] = {
  '.tflite': litert.TFLitePredictor,
  '.onnx': onnx_file.ONNXPredictor,
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
