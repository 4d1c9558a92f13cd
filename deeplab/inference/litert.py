"""Exported .tflite files, run by LiteRT on the CPU."""

import os

import numpy as np

from deeplab.inference import file_predictor
from deeplab.inference import interpreters


def check_tflite_format(path: os.PathLike, content: bytes) -> None:
  """Raises ValueError if a file lacks the identifier of TensorFlow Lite."""
  from deeplab import tflite_schema  # late: 50 ms, and most commands read none

  if not tflite_schema.has_identifier(content):
    raise ValueError(f'{path} is not a TensorFlow Lite file')


def _tensor_detail(detail: dict) -> file_predictor.TensorDetail:
  """Converts one entry of LiteRT's `get_input_details`."""
  scale, zero_point = detail['quantization']
  return file_predictor.TensorDetail(
    detail['dtype'],
    tuple(detail['shape']),
    scale,
    zero_point,
    key=detail['index'],
  )


class TFLitePredictor(file_predictor.FilePredictor):
  """A .tflite file with its model card, run by LiteRT on the CPU."""

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    resolver: str = interpreters.DEFAULT_RESOLVER,
    num_threads: int | None = None,
  ):
    """Loads a file.

    Args:
      path: NAME.tflite; NAME.json beside it is its model card.
      resolver: kernels that run it, a key of `interpreters.RESOLVERS`.
      num_threads: CPU threads; None takes one for each core that this process
        may use.

    Raises:
      ValueError: the file is absent, damaged or not TensorFlow Lite, or its
        card is absent or belongs to another file.
    """
    self.resolver = resolver
    self._num_threads = num_threads
    super().__init__(path)

  def _check_format(self, content: bytes) -> None:
    check_tflite_format(self.path, content)

  def _open(self, content: bytes) -> file_predictor.InputsAndOutputs:
    self._interpreter = interpreters.open_litert(
      content,
      resolver=self.resolver,
      num_threads=self._num_threads,
      name=self.path,
    )
    try:
      return (
        [_tensor_detail(x) for x in self._interpreter.get_input_details()],
        [_tensor_detail(x) for x in self._interpreter.get_output_details()],
      )
    except UnicodeDecodeError as error:
      raise ValueError(
        f'LiteRT cannot load {self.path}: a name is not UTF-8 ({error}); '
        'export it again'
      ) from error

  def _run(self, values: np.ndarray) -> np.ndarray:
    try:
      self._interpreter.set_tensor(self._input.key, values)
      self._interpreter.invoke()
      return self._interpreter.get_tensor(self._output.key)
    except (RuntimeError, ValueError) as error:
      raise ValueError(
        f'LiteRT cannot run {self.path}: {error}; export it again'
      ) from error
