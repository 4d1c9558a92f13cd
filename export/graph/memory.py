"""Memory of a graph's activations: a lower bound, and an arena plan.

Every runtime plans its own arena. Two numbers are computed without one:

* `lower_bound`: the largest sum of activations that are alive at one operator.
  No plan can be smaller.
* `plan_arena`: a greedy plan that places the largest activation first, at the
  lowest offset that is free during its whole lifetime, 16-byte aligned, as the
  planners of TFLite and TFLite Micro do. Kernels' scratch memory, the alignment
  of other targets and in-place operators are not included.

A graph input is alive from the start, a graph output until the end.
"""

from collections.abc import Sequence
import dataclasses

from export.graph import tflite_graph

_ALIGNMENT = 16


@dataclasses.dataclass(frozen=True)
class Lifetime:
  """The lifetime of one activation.

  Attributes:
    size: bytes.
    first: index of the first operator at which it is alive.
    last: index of the last one; the number of operators for a graph output.
  """

  size: int
  first: int
  last: int


def find_unpacked_weights(graph: tflite_graph.Graph) -> frozenset[int]:
  """Returns the tensors that are computed from constants alone.

  A float16 file unpacks its weights with DEQUANTIZE. Interpreters do so once
  and keep the result, which is therefore no activation.
  """
  computed: set[int] = set()
  for op in graph.operators:
    if op.inputs and all(
      graph.is_constant(i) or i in computed for i in op.inputs
    ):
      computed.update(op.outputs)
  return frozenset(computed)


def unpacked_weight_bytes(graph: tflite_graph.Graph) -> int:
  """Returns the bytes of `find_unpacked_weights`.

  This memory is needed in addition to the file and the arena.
  """
  return sum(graph.tensors[i].nbytes for i in find_unpacked_weights(graph))


def activation_lifetimes(graph: tflite_graph.Graph) -> list[Lifetime]:
  """Returns the lifetimes of all activations, ordered by first operator."""
  end = len(graph.operators)
  first = dict.fromkeys(graph.inputs, 0)
  last = dict.fromkeys(graph.inputs, 0)
  for index, op in enumerate(graph.operators):
    for i in op.outputs:
      first.setdefault(i, index)
      last[i] = index
    for i in op.inputs:
      if i in last:
        last[i] = index
  for i in graph.outputs:
    last[i] = end
  return [
    Lifetime(graph.tensors[i].nbytes, first[i], last[i])
    for i in sorted(
      set(first) - find_unpacked_weights(graph), key=lambda i: (first[i], i)
    )
  ]


def live_bytes(activations: Sequence[Lifetime]) -> list[int]:
  """Returns the bytes alive at each operator, in execution order.

  The last number is that of the graph outputs after the last operator.
  """
  indices = range(max((a.last for a in activations), default=-1) + 1)
  return [
    sum(a.size for a in activations if a.first <= i <= a.last) for i in indices
  ]


def lower_bound(activations: Sequence[Lifetime]) -> int:
  """Returns the largest number of bytes that are alive at once."""
  return max(live_bytes(activations), default=0)


def plan_arena(activations: Sequence[Lifetime]) -> int:
  """Returns the bytes of the greedy plan that the module describes."""
  placed: list[tuple[int, Lifetime]] = []
  # Among activations of one size TFLite Micro places the last one first. The
  # order decides how well a plan packs, and this plan is to match its arena.
  for life in sorted(reversed(activations), key=lambda a: -a.size):
    offset = 0
    for start, other in sorted(placed, key=lambda p: p[0]):
      if other.last < life.first or life.last < other.first:
        continue
      if offset + life.size <= start:
        break
      end = start + other.size
      offset = max(offset, -(-end // _ALIGNMENT) * _ALIGNMENT)
    placed.append((offset, life))
  return max((offset + a.size for offset, a in placed), default=0)
