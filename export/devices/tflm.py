"""What TensorFlow Lite Micro makes of a file: memory, and which bits differ.

LiteRT's reference kernels are what is compared with: the plain loops that the
specification of int8 arithmetic names.
"""

import collections
from collections.abc import Sequence
import math
import re
from typing import Any
from typing import NamedTuple

from ai_edge_litert import schema_py_generated as schema
import numpy as np

from deeplab import system
from deeplab.inference import interpreters
from export.graph import edit
from export.graph import memory
from export.graph import tflite_graph

_ARENA_MARGIN = 1.1
_TENSOR_BYTES = 64  # TFLM's structures of one tensor


class ArenaUsage(NamedTuple):
  """Memory that TFLM took, in bytes.

  Attributes:
    total: of the arena.
    head: activations and scratch, planned to overlap.
    tail: what lasts: tensors, kernels' own data, quantised multipliers.
  """

  total: int
  head: int
  tail: int


class OperatorDifference(NamedTuple):
  """One operator, run alone on the inputs that it has in the network.

  Attributes:
    step: place in the order of execution.
    operator: TFLite name.
    tensor: the tensor that it makes.
    largest: the largest difference, in steps of that tensor's scale (of the
      values themselves for floats); 0 is bit for bit.
    share: of the values that differ.
  """

  step: int
  operator: str
  tensor: str
  largest: float
  share: float


class NetworkDifference(NamedTuple):
  """A whole network on some images.

  Attributes:
    histogram: absolute difference of the output, in steps, and its count.
    first: the first operator, in order of execution, whose output differs;
      None if no tensor does.
  """

  histogram: dict[int, int]
  first: OperatorDifference | None


def measure_arena(content: bytes) -> ArenaUsage:
  """Returns the memory that TFLM needs for a file.

  Raises:
    ValueError: see `interpreters.open_tflm`.
  """
  runner = interpreters.open_tflm(content)
  with system.capture_stderr() as held:
    runner.print_allocations()
    text = held()
  found = dict(re.findall(r'Arena allocation (\w+) (\d+) bytes', text))
  # The larger of the two plans that were made when it was loaded.
  return ArenaUsage(*(int(found[key]) for key in ('total', 'head', 'tail')))


def recommend_arena_bytes(content: bytes) -> int:
  """Returns the bytes that a device should reserve for TFLite Micro's arena.

  The measured arena, whose bookkeeping part gets a margin of 10 % because its
  structures grow with TFLM's version; without the package the planned
  activations and 64 bytes per tensor, with the same margin.

  Args:
    content: bytes of an int8 .tflite file.
  """
  if interpreters.has_tflm():
    arena = measure_arena(content)
    needed = arena.head + _ARENA_MARGIN * arena.tail
    return math.ceil(needed / 1024) * 1024
  graph = tflite_graph.read_tflite(content)
  planned = memory.plan_arena(memory.activation_lifetimes(graph))
  return math.ceil(
    _ARENA_MARGIN * (planned + _TENSOR_BYTES * len(graph.tensors))
  )


def _reference_interpreter(content: bytes) -> Any:
  return interpreters.open_litert(
    content, resolver='reference', preserve_all_tensors=True
  )


def extract_operator(content: bytes, step: int) -> bytes:
  """Returns a file of one operator of another file, its constants included."""
  model = schema.ModelT.InitFromPackedBuf(content, 0)
  graph = model.subgraphs[0]
  op = graph.operators[step]

  def is_constant(index: int) -> bool:
    data = model.buffers[graph.tensors[index].buffer].data
    return data is not None and len(data) > 0

  graph.operators = [op]
  graph.inputs = sorted(
    {int(i) for i in op.inputs if i >= 0 and not is_constant(i)}
  )
  graph.outputs = [int(i) for i in op.outputs]
  model.operatorCodes = [model.operatorCodes[op.opcodeIndex]]
  op.opcodeIndex = 0
  model.metadata, model.metadataBuffer, model.signatureDefs = [], [], []
  edit.remove_unused_tensors(model)
  return edit.serialize_model(model)


def _operator_difference(
  graph: tflite_graph.Graph, step: int, a: np.ndarray, b: np.ndarray
) -> OperatorDifference:
  op = graph.operators[step]
  apart = np.abs(a.astype(np.float64) - np.asarray(b).astype(np.float64))
  return OperatorDifference(
    step,
    op.name,
    graph.tensors[op.outputs[0]].name,
    float(apart.max(initial=0)),
    float(np.mean(apart > 0)),
  )


def compare_operators(
  content: bytes, image: np.ndarray
) -> list[OperatorDifference]:
  """Runs each operator alone by TFLM, on what LiteRT gives it.

  Args:
    content: bytes of a file.
    image: its input, in its own type and shape.
  """
  graph = tflite_graph.read_tflite(content)
  reference = _reference_interpreter(content)
  reference.set_tensor(graph.inputs[0], image)
  reference.invoke()
  found = []
  for step, op in enumerate(graph.operators):
    runner = interpreters.open_tflm(extract_operator(content, step))
    own = sorted({i for i in op.inputs if not graph.is_constant(i)})
    for place, index in enumerate(own):
      runner.set_input(reference.get_tensor(index), place)
    runner.invoke()
    wanted = reference.get_tensor(op.outputs[0])
    found.append(
      _operator_difference(graph, step, wanted, runner.get_output(0))
    )
  return found


def compare_network(
  content: bytes, images: Sequence[np.ndarray]
) -> NetworkDifference:
  """Compares a whole network by both.

  Args:
    content: bytes of a file.
    images: its inputs, in its own type and shape.
  """
  graph = tflite_graph.read_tflite(content)
  reference = _reference_interpreter(content)
  runner = interpreters.open_tflm(content, preserve_all_tensors=True)
  histogram: collections.Counter[int] = collections.Counter()
  first = None
  for image in images:
    reference.set_tensor(graph.inputs[0], image)
    reference.invoke()
    runner.set_input(image, 0)
    runner.invoke()
    for step, op in enumerate(graph.operators):
      if first is not None and step >= first.step:
        break
      own = runner.GetTensor(op.outputs[0], 0)['tensor_data']
      difference = _operator_difference(
        graph, step, reference.get_tensor(op.outputs[0]), own
      )
      if difference.largest:
        first = difference
    histogram.update(_count_lsb_differences(graph, reference, runner))
  return NetworkDifference(dict(sorted(histogram.items())), first)


def _count_lsb_differences(
  graph: tflite_graph.Graph, reference: Any, runner: Any
) -> collections.Counter[int]:
  """Counts the differences of one output, in steps of its scale."""
  index = graph.outputs[0]
  a, b = reference.get_tensor(index), runner.get_output(0)
  apart = np.abs(a.astype(np.float64) - np.asarray(b).astype(np.float64))
  if a.dtype.kind == 'f':
    apart /= tflite_graph.output_scale(graph) or 1.0
  values, counts = np.unique(np.rint(apart).astype(int), return_counts=True)
  return collections.Counter(
    dict(zip(values.tolist(), counts.tolist(), strict=True))
  )
