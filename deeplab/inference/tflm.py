"""Exported .tflite files, run by TensorFlow Lite Micro on this machine.

The kernels are the portable ones of a micro-controller, without its own
instructions: slow, and what such a device computes. The package `tflite-micro`
has them for Linux alone.
"""

import importlib.util
import os
from typing import Any

import numpy as np

from deeplab.inference import litert

# What its bookkeeping takes at most beside the activations.
_BOOKKEEPING_BYTES = 8 * 1024**2


def is_available() -> bool:
  """Whether this machine has the package."""
  return importlib.util.find_spec('tflite_micro') is not None


def make_interpreter(
  content: bytes,
  arena_bytes: int | None = None,
  preserve_all_tensors: bool = False,
) -> Any:
  """Returns an interpreter of a file, with the memory it needs.

  Args:
    content: bytes of a .tflite file, which LiteRT can load.
    arena_bytes: for activations and bookkeeping; None: as much as all tensors
      take together.
    preserve_all_tensors: keeps every tensor, for `GetTensor`.

  Raises:
    ValueError: no package here, or TFLM cannot load the file.
  """
  if not is_available():
    raise ValueError(
      'TensorFlow Lite Micro is not installed: `pip install tflite-micro` '
      '(Linux alone) as in requirements.txt'
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
      f'TensorFlow Lite Micro cannot load the file ({error}); what it printed '
      'names the operator'
    ) from error


def _tensor_bytes(content: bytes) -> int:
  """Returns the bytes of all tensors; LiteRT refuses what is no file.

  TFLM does not check what it reads, and would end the process.
  """
  checked = litert.open_interpreter(content, resolver='reference')
  return sum(
    int(np.prod(detail['shape'], dtype=np.int64))
    * np.dtype(detail['dtype']).itemsize
    for detail in checked.get_tensor_details()
  )


class TFLMPredictor(litert.TFLitePredictor):
  """A .tflite file with its model card, run by TFLM's portable kernels."""

  def __init__(self, path: str | os.PathLike):
    """Loads a file.

    Args:
      path: as of `litert.TFLitePredictor`.

    Raises:
      ValueError: as there, or no package here.
    """
    self.resolver = 'tflm'
    self._load(path)

  def _make_interpreter(self, content: bytes) -> tuple[list[dict], list[dict]]:
    self._interpreter = make_interpreter(content)
    return (
      [_litert_detail(self._interpreter.get_input_details(0))],
      [_litert_detail(self._interpreter.get_output_details(0))],
    )

  def _run(self, values: np.ndarray) -> np.ndarray:
    self._interpreter.set_input(values, 0)
    try:
      self._interpreter.invoke()
    except RuntimeError as error:
      raise ValueError(
        f'TensorFlow Lite Micro cannot run the file ({error}); what it printed '
        'names the operator'
      ) from error
    return self._interpreter.get_output(0)


def _litert_detail(detail: dict) -> dict:
  """Returns details of a tensor by LiteRT's names."""
  parameters = detail['quantization_parameters']
  scales, zeros = parameters['scales'], parameters['zero_points']
  one = len(scales) == 1
  return {
    'dtype': detail['dtype'],
    'shape': detail['shape'],
    'quantization': (float(scales[0]), int(zeros[0])) if one else (0.0, 0),
  }
