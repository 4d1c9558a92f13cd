"""How much memory the activations of a graph need at least, and in a plan.

Every runtime plans its own arena; these two figures need none of them:

* `lower_bound`: the largest sum of activations alive at one operator. No plan
  can be smaller.
* `plan_arena`: where a greedy planner puts them, largest first, each at
  the lowest offset that is free during its whole life, 16-byte aligned: the
  scheme of
  TFLite's and TFLite Micro's planners. Scratch memory of kernels, alignment of
  other targets and in-place tricks are not in it.

A graph input lives from the start, a graph output to the end.
"""

from collections.abc import Sequence
import dataclasses

from export.graph import tflite_graph

_ALIGNMENT = 16


@dataclasses.dataclass(frozen=True)
class Lifetime:
  """One activation: its bytes, first and last operator it is alive at."""

  size: int
  first: int
  last: int


def find_unpacked_weights(graph: tflite_graph.Graph) -> frozenset[int]:
  """Returns the tensors computed from constants alone.

  A float16 file unpacks its weights with DEQUANTIZE; interpreters do so once
  and keep the result, which is therefore no activation.
  """
  known: set[int] = set()
  for op in graph.operators:
    if op.inputs and all(graph.is_constant(i) or i in known for i in op.inputs):
      known.update(op.outputs)
  return frozenset(known)


def activation_lifetimes(graph: tflite_graph.Graph) -> list[Lifetime]:
  """Returns the life of every activation, in order of the first operator."""
  end = len(graph.operators)
  first = dict.fromkeys(graph.inputs, 0)
  last = dict.fromkeys(graph.inputs, 0)
  for step, op in enumerate(graph.operators):
    for i in op.outputs:
      first.setdefault(i, step)
      last[i] = step
    for i in op.inputs:
      if i in last:
        last[i] = step
  for i in graph.outputs:
    last[i] = end
  return [
    Lifetime(graph.tensors[i].nbytes, first[i], last[i])
    for i in sorted(
      set(first) - find_unpacked_weights(graph), key=lambda i: (first[i], i)
    )
  ]


def unpacked_weight_bytes(graph: tflite_graph.Graph) -> int:
  """Bytes of `find_unpacked_weights`: memory besides file and arena."""
  return sum(graph.tensors[i].nbytes for i in find_unpacked_weights(graph))


def live_bytes(activations: Sequence[Lifetime]) -> list[int]:
  """Returns the bytes alive at each operator, in order of execution."""
  steps = range(max((a.last for a in activations), default=-1) + 1)
  return [
    sum(a.size for a in activations if a.first <= s <= a.last) for s in steps
  ]


def lower_bound(activations: Sequence[Lifetime]) -> int:
  """Returns the most bytes that are alive at once."""
  return max(live_bytes(activations), default=0)


def plan_arena(activations: Sequence[Lifetime]) -> int:
  """Returns the bytes of the greedy plan described above."""
  placed: list[tuple[int, Lifetime]] = []
  # Of one size the last made comes first, as in TFLite Micro: the order decides
  # how well a plan packs, and its arena should be this one.
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
