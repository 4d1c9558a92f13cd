"""Exported .onnx files, run by ONNX Runtime on the CPU.

They take and give what the .tflite files that they were made of do, images
[B, H, W, 3], and have the same model card.
"""

import os
from typing import Any

import numpy as np

from deeplab import system
from deeplab.inference import litert

_DTYPES = {
  'tensor(float)': np.float32,
  'tensor(int8)': np.int8,
  'tensor(uint8)': np.uint8,
  'tensor(int32)': np.int32,
}


# Session options under which int8 is exact on every CPU, the fastest first. On
# x86 without VNNI, ONNX Runtime multiplies uint8 by int8 with instructions
# whose 16-bit sums saturate (vpmaddubsw). The first option avoids those; other
# CPUs ignore it. It fails for kernels that share a zero point, as in files that
# were exported before each had its own: the second computes those in float32
# between QuantizeLinear and DequantizeLinear.
# https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
_EXACT_INT8_OPTIONS = ('session.x64quantprecision', 'session.disable_quant_qdq')


class ONNXPredictor(litert.TFLitePredictor):
  """An .onnx file with its model card."""

  def __init__(
    self, path: str | os.PathLike, *, num_threads: int | None = None
  ):
    """Loads a file.

    Args:
      path: NAME.onnx; NAME.json beside it is its card.
      num_threads: CPU threads; None is one for each core this process may use.

    Raises:
      ValueError: no such file, none that ONNX Runtime can load, or a card that
        is missing or does not fit it.
    """
    self.resolver = 'onnxruntime'
    self._num_threads = num_threads
    self._load(path)

  def _check_format(self, content: bytes) -> None:
    pass  # ONNX Runtime says what is wrong

  def _make_interpreter(self, content: bytes) -> tuple[list[dict], list[dict]]:
    for option in _EXACT_INT8_OPTIONS:
      try:
        self._interpreter = self._open_session(content, option)
        break
      except Exception as error:  # of its own types, which share no base
        failure = error
    else:
      raise ValueError(
        f'ONNX Runtime cannot load {self.path}: {failure}'
      ) from failure
    return (
      [self._tensor_detail(x, 'input') for x in self._interpreter.get_inputs()],
      [
        self._tensor_detail(x, 'output_tensor')
        for x in self._interpreter.get_outputs()
      ],
    )

  def _open_session(self, content: bytes, option: str) -> Any:
    """Opens a file with one of `_EXACT_INT8_OPTIONS`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = self._num_threads or system.cpu_count()
    options.log_severity_level = 4  # fatal: what else fails is raised
    options.add_session_config_entry(option, '1')
    return onnxruntime.InferenceSession(
      content, options, providers=['CPUExecutionProvider']
    )

  def _tensor_detail(self, end: Any, key: str) -> dict:
    """Returns details of one end by LiteRT's names.

    ONNX stores no scale with an input or output; the card does.
    """
    quantization = self.card.get(key, {}).get('quantization') or {}
    return {
      'name': end.name,
      'dtype': _DTYPES[end.type],
      'shape': end.shape,
      'quantization': (
        quantization.get('scale', 0.0),
        quantization.get('zero_point', 0),
      ),
    }

  def _run(self, values: np.ndarray) -> np.ndarray:
    (result,) = self._interpreter.run(None, {self._input['name']: values})
    return result
