"""Exported .onnx files, run by ONNX Runtime on the CPU.

Their inputs and outputs are those of the .tflite files that they were converted
from: images [B, H, W, C], and the same model card.
"""

import os
from typing import Any

import numpy as np

from deeplab import system
from deeplab.inference import file_predictor

_DTYPES = {
  'tensor(float)': np.float32,
  'tensor(int8)': np.int8,
  'tensor(uint8)': np.uint8,
  'tensor(int32)': np.int32,
}


# Session options that make int8 exact on every CPU, the fastest first. On x86
# without VNNI, ONNX Runtime multiplies uint8 by int8 with instructions whose
# 16-bit sums saturate (vpmaddubsw). The first option avoids those; other CPUs
# ignore it. It fails for kernels that share a zero point, as in files that were
# exported before each had its own: the second computes those in float32 between
# QuantizeLinear and DequantizeLinear.
# https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
_EXACT_INT8_OPTIONS = ('session.x64quantprecision', 'session.disable_quant_qdq')


class ONNXPredictor(file_predictor.FilePredictor):
  """An .onnx file with its model card, run by ONNX Runtime on the CPU."""

  resolver = 'onnxruntime'

  def __init__(
    self, path: str | os.PathLike, *, num_threads: int | None = None
  ):
    """Loads a file.

    Args:
      path: NAME.onnx; NAME.json beside it is its model card.
      num_threads: CPU threads; None takes one for each core that this process
        may use.

    Raises:
      ValueError: the file is absent, ONNX Runtime cannot load it, or its card
        is absent or belongs to another file.
    """
    self._num_threads = num_threads
    super().__init__(path)

  def _open(self, content: bytes) -> file_predictor.InputsAndOutputs:
    for option in _EXACT_INT8_OPTIONS:
      try:
        self._session = self._open_session(content, option)
        break
      # ONNX Runtime raises types of its own that share no base class.
      except Exception as error:
        failure = error
    else:
      raise ValueError(
        f'ONNX Runtime cannot load {self.path}: {failure}'
      ) from failure
    return (
      [self._tensor_detail(x, 'input') for x in self._session.get_inputs()],
      [
        self._tensor_detail(x, 'output_tensor')
        for x in self._session.get_outputs()
      ],
    )

  def _open_session(self, content: bytes, option: str) -> Any:
    """Opens a file with one of `_EXACT_INT8_OPTIONS`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = self._num_threads or system.cpu_count()
    options.log_severity_level = 4  # fatal; other failures are raised
    options.add_session_config_entry(option, '1')
    return onnxruntime.InferenceSession(
      content, options, providers=['CPUExecutionProvider']
    )

  def _tensor_detail(
    self, tensor: Any, card_key: str
  ) -> file_predictor.TensorDetail:
    """Describes an input or output.

    ONNX stores no scale with inputs and outputs; the model card does.

    Args:
      tensor: `onnxruntime.NodeArg`.
      card_key: key of its description in the model card.
    """
    if tensor.type not in _DTYPES or not all(
      isinstance(size, int) for size in tensor.shape
    ):
      raise ValueError(
        f'{self.path}: {tensor.name!r} is a {tensor.type} of shape '
        f'{tensor.shape}; known are {", ".join(_DTYPES)} of fixed sizes'
      )
    quantization = self.card.get(card_key, {}).get('quantization') or {}
    is_ids = card_key == 'output_tensor' and self.card['output'] == 'argmax'
    if 'int' in tensor.type and not is_ids and not quantization:
      raise ValueError(
        f'the model card of {self.path} lacks {card_key}.quantization, without '
        f'which {tensor.type} has no meaning: export the model again'
      )
    return file_predictor.TensorDetail(
      _DTYPES[tensor.type],
      tuple(tensor.shape),
      quantization.get('scale', 0.0),
      quantization.get('zero_point', 0),
      key=tensor.name,
    )

  def _run(self, values: np.ndarray) -> np.ndarray:
    try:
      (result,) = self._session.run(None, {self._input.key: values})
    except Exception as error:  # of types that share no base class
      raise ValueError(
        f'ONNX Runtime cannot run {self.path}: {error}; export it again'
      ) from error
    return result
