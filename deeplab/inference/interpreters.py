"""Interpreters of .tflite files: LiteRT, and TensorFlow Lite Micro (TFLM).

Every interpreter of the project is opened here. The module imports neither JAX
nor a predictor, so that device checks of a file load in a fraction of a second.
"""

import importlib.util
import os
import struct
from typing import Any

from ai_edge_litert import interpreter
import numpy as np

from deeplab import system

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

# Upper bound of TFLM's bookkeeping beside the activations.
_BOOKKEEPING_BYTES = 8 * 1024**2


def open_litert(
  content: bytes,
  *,
  resolver: str = DEFAULT_RESOLVER,
  num_threads: int | None = None,
  preserve_all_tensors: bool = False,
  name: str | os.PathLike = 'the file',
) -> interpreter.Interpreter:
  """Opens a .tflite file in LiteRT and allocates its tensors.

  Args:
    content: bytes of the file.
    resolver: kernels that run it, a key of `RESOLVERS`.
    num_threads: CPU threads; None takes one for each core that this process may
      use.
    preserve_all_tensors: keep intermediate tensors readable after `invoke`, in
      exchange for memory.
    name: path of the file, for the error message.

  Raises:
    ValueError: `resolver` is unknown, or LiteRT cannot load the file, or it
      stores other shapes than its operators compute.
  """
  if resolver not in RESOLVERS:
    raise ValueError(f'resolver={resolver!r} is not one of {list(RESOLVERS)}')
  try:
    _check_graph(content)
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


def _check_graph(content: bytes) -> None:
  """Checks what LiteRT believes: that a graph exists, and its shapes.

  A file without a graph ends the process. XNNPACK takes the memory of the
  stored shapes, so that one damaged size costs gigabytes; the plain kernels
  compute the shapes, in a few milliseconds.

  Args:
    content: bytes of the file.

  Raises:
    ValueError: there is no graph, or a tensor has another shape.
    RuntimeError: LiteRT cannot load the file.
  """
  from ai_edge_litert import schema_py_generated as schema  # late: 50 ms

  try:
    model = schema.Model.GetRootAs(content, 0)
    whole = model.SubgraphsLength() and model.BuffersLength()
  except (IndexError, TypeError, struct.error) as error:
    raise ValueError(f'it is cut or damaged ({error})') from error
  if not whole:
    raise ValueError('it holds no graph')
  checked = interpreter.Interpreter(
    model_content=content, experimental_op_resolver_type=RESOLVERS['reference']
  )
  shapes = lambda: {
    (detail['index'], detail['name']): detail['shape'].tolist()
    for detail in checked.get_tensor_details()
  }
  stored = shapes()
  checked.allocate_tensors()
  for tensor, shape in shapes().items():
    if stored.get(tensor, shape) != shape:
      raise ValueError(
        f'its tensor {tensor[1]!r} is stored as {stored[tensor]} and computed '
        f'as {shape}'
      )


def has_tflm() -> bool:
  """Returns True if the package `tflite-micro` is installed."""
  return importlib.util.find_spec('tflite_micro') is not None


def open_tflm(
  content: bytes,
  arena_bytes: int | None = None,
  preserve_all_tensors: bool = False,
  name: str = 'the file',
) -> Any:
  """Opens a .tflite file in TFLM.

  Args:
    content: bytes of a file that LiteRT can load.
    arena_bytes: memory for activations and bookkeeping; None takes enough for
      all tensors at once.
    preserve_all_tensors: keep every tensor readable by `GetTensor`.
    name: path of the file, for the error message.

  Raises:
    ValueError: the package is not installed, or TFLM cannot load the file.
  """
  if not has_tflm():
    raise ValueError(
      'TensorFlow Lite Micro is not installed: `pip install tflite-micro` '
      '(Linux only) as in requirements.txt'
    )
  from tflite_micro.python.tflite_micro import runtime

  if arena_bytes is None:
    arena_bytes = _tensor_bytes(content, name) + _BOOKKEEPING_BYTES
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
      f'TensorFlow Lite Micro cannot load {name} ({error}); the operator is '
      'named in its output on stderr'
    ) from error


def _tensor_bytes(content: bytes, name: str) -> int:
  """Returns the bytes of all tensors of a file together.

  LiteRT opens the file first, because TFLM does not validate its input and a
  damaged file would end the process.
  """
  checked = open_litert(content, resolver='reference', name=name)
  return sum(
    int(np.prod(detail['shape'], dtype=np.int64))
    * np.dtype(detail['dtype']).itemsize
    for detail in checked.get_tensor_details()
  )
