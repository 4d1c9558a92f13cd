"""Measures a file on TensorFlow Lite Micro (TFLM): arena and bit differences.

TFLM's outputs are compared with those of LiteRT's reference kernels, the plain
loops that the specification of TFLite's int8 arithmetic refers to.
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
  """Arena memory that TFLM uses, bytes.

  Attributes:
    total: the whole arena.
    head: activations and scratch memory, which overlap.
    tail: persistent data: tensors, kernels' data, quantized multipliers.
  """

  total: int
  head: int
  tail: int


class OperatorDifference(NamedTuple):
  """Difference between TFLM and LiteRT at one operator's output.

  Attributes:
    step: position in execution order.
    operator: TFLite name.
    tensor: name of the output tensor.
    largest: largest absolute difference, in LSB, or in the values themselves
      for float outputs; 0 if all bits are equal.
    share: share of the values that differ.
  """

  step: int
  operator: str
  tensor: str
  largest: float
  share: float


class NetworkDifference(NamedTuple):
  """Difference between TFLM and LiteRT over a whole network.

  Attributes:
    histogram: absolute difference of output values in LSB -> number of values.
    first: the first operator in execution order whose output differs; None if
      all tensors are equal.
  """

  histogram: dict[int, int]
  first: OperatorDifference | None


def measure_arena(content: bytes) -> ArenaUsage:
  """Measures the arena that TFLM needs for a file.

  Args:
    content: bytes of a .tflite file.

  Raises:
    ValueError: `tflite-micro` is not installed, or cannot load the file.
  """
  runner = interpreters.open_tflm(content)
  with system.capture_stderr() as captured:
    runner.print_allocations()
    printed = captured()
  sizes = dict(re.findall(r'Arena allocation (\w+) (\d+) bytes', printed))
  # TFLM makes two plans when it loads a file; these sizes are the larger one's.
  return ArenaUsage(*(int(sizes[key]) for key in ('total', 'head', 'tail')))


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
  """Returns a file with one operator of another file and its constants.

  Args:
    content: bytes of a .tflite file.
    step: position of the operator in execution order.
  """
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


def compare_operators(
  content: bytes, image: np.ndarray
) -> list[OperatorDifference]:
  """Runs each operator alone on TFLM, with LiteRT's tensors as its inputs.

  Args:
    content: bytes of a .tflite file.
    image: [1, H, W, C] in the input's dtype.

  Returns:
    One difference per operator, in execution order.
  """
  graph = tflite_graph.read_tflite(content)
  reference = _reference_interpreter(content)
  reference.set_tensor(graph.inputs[0], image)
  reference.invoke()
  differences = []
  for step, op in enumerate(graph.operators):
    runner = interpreters.open_tflm(extract_operator(content, step))
    inputs = sorted({i for i in op.inputs if not graph.is_constant(i)})
    for position, index in enumerate(inputs):
      runner.set_input(reference.get_tensor(index), position)
    runner.invoke()
    expected = reference.get_tensor(op.outputs[0])
    differences.append(
      _operator_difference(graph, step, expected, runner.get_output(0))
    )
  return differences


def compare_network(
  content: bytes, images: Sequence[np.ndarray]
) -> NetworkDifference:
  """Runs a whole network on TFLM and on LiteRT's reference kernels.

  Args:
    content: bytes of a .tflite file.
    images: [1, H, W, C] in the input's dtype.
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
    end = len(graph.operators) if first is None else first.step
    first = _first_difference(graph, reference, runner, end) or first
    histogram.update(_count_lsb_differences(graph, reference, runner))
  return NetworkDifference(dict(sorted(histogram.items())), first)


def _first_difference(
  graph: tflite_graph.Graph, reference: Any, runner: Any, end: int
) -> OperatorDifference | None:
  """Returns the first difference among the operators before `end`, or None."""
  for step, op in enumerate(graph.operators[:end]):
    found = runner.GetTensor(op.outputs[0], 0)['tensor_data']
    difference = _operator_difference(
      graph, step, reference.get_tensor(op.outputs[0]), found
    )
    if difference.largest:
      return difference
  return None


def _operator_difference(
  graph: tflite_graph.Graph, step: int, expected: Any, found: Any
) -> OperatorDifference:
  op = graph.operators[step]
  distance = _absolute_difference(expected, found)
  return OperatorDifference(
    step,
    op.name,
    graph.tensors[op.outputs[0]].name,
    float(distance.max(initial=0)),
    float(np.mean(distance > 0)),
  )


def _count_lsb_differences(
  graph: tflite_graph.Graph, reference: Any, runner: Any
) -> collections.Counter[int]:
  """Counts the absolute differences of one output, in LSB."""
  expected = reference.get_tensor(graph.outputs[0])
  distance = _absolute_difference(expected, runner.get_output(0))
  if expected.dtype.kind == 'f':
    distance /= tflite_graph.output_scale(graph) or 1.0
  values, counts = np.unique(np.rint(distance).astype(int), return_counts=True)
  return collections.Counter(
    dict(zip(values.tolist(), counts.tolist(), strict=True))
  )


def _absolute_difference(a: Any, b: Any) -> np.ndarray:
  return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
