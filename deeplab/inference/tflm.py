"""Exported .tflite files, run by TensorFlow Lite Micro on this machine.

The kernels are the portable ones for microcontrollers, without CMSIS-NN or
other device-specific instructions: slow, but what such a device computes. The
package `tflite-micro` exists for Linux only.
"""

import importlib.util
from typing import Any

import numpy as np

from deeplab.inference import file_predictor
from deeplab.inference import litert

# Upper bound of TFLM's bookkeeping beside the activations.
_BOOKKEEPING_BYTES = 8 * 1024**2


def is_available() -> bool:
  """Returns True if the package `tflite-micro` is installed."""
  return importlib.util.find_spec('tflite_micro') is not None


def make_interpreter(
  content: bytes,
  arena_bytes: int | None = None,
  preserve_all_tensors: bool = False,
) -> Any:
  """Opens a .tflite file in TFLM.

  Args:
    content: bytes of a file that LiteRT can load.
    arena_bytes: memory for activations and bookkeeping; None takes enough for
      all tensors at once.
    preserve_all_tensors: keep every tensor readable by `GetTensor`.

  Raises:
    ValueError: the package is not installed, or TFLM cannot load the file.
  """
  if not is_available():
    raise ValueError(
      'TensorFlow Lite Micro is not installed: `pip install tflite-micro` '
      '(Linux only) as in requirements.txt'
    )
  from tflite_micro.python.tflite_micro import runtime

  if arena_bytes is None:
    arena_bytes = _tensor_bytes(content) + _BOOKKEEPING_BYTES
  config = runtime.InterpreterConfig
  try:
    return runtime.Interpreter.from_bytes(
      content,
      arena_size=arena_bytes,
      intrepreter_config=(
        config.kPreserveAllTensors
        if preserve_all_tensors
        else config.kAllocationRecording
      ),
    )
  except (RuntimeError, ValueError) as error:
    raise ValueError(
      f'TensorFlow Lite Micro cannot load the file ({error}); the operator is '
      'named in its output on stderr'
    ) from error


def _tensor_bytes(content: bytes) -> int:
  """Returns the bytes of all tensors of a file together.

  LiteRT opens the file first, because TFLM does not validate its input and a
  damaged file would end the process.
  """
  checked = litert.open_interpreter(content, resolver='reference')
  return sum(
    int(np.prod(detail['shape'], dtype=np.int64))
    * np.dtype(detail['dtype']).itemsize
    for detail in checked.get_tensor_details()
  )


class TFLMPredictor(file_predictor.FilePredictor):
  """A .tflite file with its model card, run by TFLM's portable kernels.

  Construction raises ValueError if the package `tflite-micro` is not installed,
  TFLM cannot load the file, or the card does not belong to it.
  """

  resolver = 'tflm'

  def _check_format(self, content: bytes) -> None:
    litert.check_tflite_format(self.path, content)

  def _open(self, content: bytes) -> file_predictor.InputsAndOutputs:
    self._interpreter = make_interpreter(content)
    return (
      [_tensor_detail(self._interpreter.get_input_details(0))],
      [_tensor_detail(self._interpreter.get_output_details(0))],
    )

  def _run(self, values: np.ndarray) -> np.ndarray:
    self._interpreter.set_input(values, 0)
    try:
      self._interpreter.invoke()
    except RuntimeError as error:
      raise ValueError(
        f'TensorFlow Lite Micro cannot run the file ({error}); the operator is '
        'named in its output on stderr'
      ) from error
    return self._interpreter.get_output(0)


def _tensor_detail(detail: dict) -> file_predictor.TensorDetail:
  """Converts TFLM's description of an input or output."""
  parameters = detail['quantization_parameters']
  scales, zero_points = parameters['scales'], parameters['zero_points']
  if len(scales) != 1:
    return file_predictor.TensorDetail(
      detail['dtype'], tuple(detail['shape']), 0.0, 0
    )
  return file_predictor.TensorDetail(
    detail['dtype'],
    tuple(detail['shape']),
    float(scales[0]),
    int(zero_points[0]),
  )
