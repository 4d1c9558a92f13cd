"""Exported .tflite files, run by LiteRT on the CPU."""

import os

from ai_edge_litert import interpreter
import numpy as np

from deeplab import system
from deeplab.inference import file_predictor

# LiteRT's kernels. 'default' runs float and int8 graphs through XNNPACK,
# 'builtin' uses the optimized kernels without delegates, 'reference' the plain
# loops that the others are checked against (slow). Quantized results of the
# three differ by up to two LSB, so a report names the one it used.
RESOLVERS = {
  'default': interpreter.OpResolverType.AUTO,
  'builtin': interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
  'reference': interpreter.OpResolverType.BUILTIN_REF,
}
DEFAULT_RESOLVER = 'default'


def open_interpreter(
  content: bytes,
  *,
  resolver: str = DEFAULT_RESOLVER,
  num_threads: int | None = None,
  preserve_all_tensors: bool = False,
  name: str | os.PathLike = 'the file',
) -> interpreter.Interpreter:
  """Opens a .tflite file in LiteRT and allocates its tensors.

  Every LiteRT interpreter of the project comes from here.

  Args:
    content: bytes of the file.
    resolver: kernels that run it, a key of `RESOLVERS`.
    num_threads: CPU threads; None takes one for each core that this process may
      use.
    preserve_all_tensors: keep intermediate tensors readable after `invoke`, in
      exchange for memory.
    name: path of the file, for the error message.

  Raises:
    ValueError: `resolver` is unknown, or LiteRT cannot load the file.
  """
  if resolver not in RESOLVERS:
    raise ValueError(f'resolver={resolver!r} is not one of {list(RESOLVERS)}')
  try:
    opened = interpreter.Interpreter(
      model_content=content,
      num_threads=num_threads or system.cpu_count(),
      experimental_op_resolver_type=RESOLVERS[resolver],
      experimental_preserve_all_tensors=preserve_all_tensors,
    )
    opened.allocate_tensors()
  except (ValueError, RuntimeError) as error:
    raise ValueError(f'LiteRT cannot load {name}: {error}') from error
  return opened


def check_tflite_format(path: os.PathLike, content: bytes) -> None:
  """Raises ValueError if a file lacks the identifier of TensorFlow Lite."""
  if content[4:8] != b'TFL3':
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
    resolver: str = DEFAULT_RESOLVER,
    num_threads: int | None = None,
  ):
    """Loads a file.

    Args:
      path: NAME.tflite; NAME.json beside it is its model card.
      resolver: kernels that run it, a key of `RESOLVERS`.
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
    self._interpreter = open_interpreter(
      content,
      resolver=self.resolver,
      num_threads=self._num_threads,
      name=self.path,
    )
    return (
      [_tensor_detail(x) for x in self._interpreter.get_input_details()],
      [_tensor_detail(x) for x in self._interpreter.get_output_details()],
    )

  def _run(self, values: np.ndarray) -> np.ndarray:
    self._interpreter.set_tensor(self._input.key, values)
    self._interpreter.invoke()
    return self._interpreter.get_tensor(self._output.key)
