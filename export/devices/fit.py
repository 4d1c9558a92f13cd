"""Checks that an int8 file fits a target, and names what does not.

A file fits if the target runs all of its operators and has enough RAM for its
activations and enough flash for its weights. Every violation is a phrase that
names the layer, the number, and, where there is one, the remedy.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from deeplab.models import resizing
from export.devices import resizes
from export.devices import targets
from export.devices import vela
from export.graph import memory
from export.graph import tflite_graph

_CONVOLUTIONS = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED')
_MAX_REPORTED = 4

# The change that removes an operator which a target does not run.
_REMEDIES = {
  'HARD_SWISH': 'train with config.model.encoder.activation=relu6',
  'RESIZE_BILINEAR': 'config.model.head.align_corners=True with an input of '
  '32k + 1 has whole ratios',
  'PAD': "train with config.model.encoder.padding='same', or use an input of "
  '32k + 1',
  'SUB': 'pass --normalization=caller, which takes it out of the file',
}
_HALF_PIXEL_REMEDY = (
  'config.model.head.align_corners=False with an input of 32k has whole ratios'
)


class DoesNotFit(ValueError):
  """A file needs more than its target has."""


@dataclasses.dataclass(frozen=True)
class MemoryLimits:
  """Memory that a system gives a network; None for no limit.

  Attributes:
    ram_bytes: for activations.
    flash_bytes: for weights.
  """

  ram_bytes: int | None
  flash_bytes: int | None


def memory_limits(
  target: targets.Target, ram_kib: int | None, flash_kib: int | None
) -> MemoryLimits:
  """Returns the memory of a target, or that of the user's own system.

  Args:
    target: the device.
    ram_kib: replaces the target's RAM, KiB; None keeps it.
    flash_kib: replaces the target's flash, KiB; None keeps it.
  """
  return MemoryLimits(
    target.memory_bytes if ram_kib is None else 1024 * ram_kib,
    target.flash_bytes if flash_kib is None else 1024 * flash_kib,
  )


def check_fit(
  graph: tflite_graph.Graph,
  path: str,
  target: targets.Target,
  available: MemoryLimits,
) -> dict[str, Any]:
  """Checks an int8 file against a target.

  Args:
    graph: graph of the file.
    path: path of the file, which the target's compiler reads.
    target: the device.
    available: its memory.

  Returns:
    `name` and `title` of the target; `ram_bytes` and `flash_bytes`, the limits;
    `advice`, a phrase per performance issue; `estimate_ms`, the least latency
    in milliseconds (`Target.estimate_ms`); and `compiled`, the summary of the
    target's compiler, None if it has none.

  Raises:
    DoesNotFit: names layers and numbers.
    ValueError: the compiler fails.
  """
  compiled = None
  if target.compiler == 'vela':
    compiled = vela.compile_file(path, target.name, available.ram_bytes)
  violations = find_violations(
    graph, target, available, compiled.refused if compiled else ()
  )
  if compiled:
    violations += _vela_plan_violations(compiled, available)
  if violations:
    hidden = len(violations) - _MAX_REPORTED
    rest = f'; and {hidden} more' if hidden > 0 else ''
    raise DoesNotFit(
      f'{os.path.basename(path)} does not fit {target.name}: '
      f'{"; ".join(violations[:_MAX_REPORTED])}{rest}'
    )
  return {
    'name': target.name,
    'title': target.title,
    'ram_bytes': available.ram_bytes,
    'flash_bytes': available.flash_bytes,
    'advice': list(find_performance_issues(graph, target)),
    'estimate_ms': target.estimate_ms(tflite_graph.count_macs(graph)),
    'compiled': compiled and vela.summary_to_json(compiled),
  }


def find_violations(
  graph: tflite_graph.Graph,
  target: targets.Target,
  available: MemoryLimits,
  refused: Sequence[vela.UnsupportedOperator] = (),
) -> list[str]:
  """Lists the reasons why a file does not fit, a phrase each.

  Args:
    graph: graph of an int8 file.
    target: the device.
    available: its memory.
    refused: operators that the target's compiler leaves off the NPU.
  """
  return [
    *_refused_operators(target, refused),
    *_operator_violations(graph, target),
    *_ram_violations(graph, available.ram_bytes),
    *_flash_violations(graph, available.flash_bytes),
  ]


def find_performance_issues(
  graph: tflite_graph.Graph, target: targets.Target
) -> Iterator[str]:
  """Yields a phrase on what makes a file slow on a target that runs it."""
  if target.weights == 'per_channel':
    return
  for index, op in enumerate(graph.operators):
    if op.name not in _CONVOLUTIONS:
      continue
    scales = len(graph.tensors[op.inputs[1]].scales)
    if scales > 1:
      yield (
        f'{describe_operator(graph, index)} has {scales} weight scales; '
        f'{target.name} is made for one per tensor '
        f'({target.sources["weights"]})'
      )
      return


def describe_operator(graph: tflite_graph.Graph, operator_index: int) -> str:
  """Names an operator by its output tensor, shape and dtype.

  Args:
    graph: the graph.
    operator_index: position in execution order; an index past the end means
      the last operator.
  """
  op = graph.operators[min(operator_index, len(graph.operators) - 1)]
  tensor = graph.tensors[op.outputs[0]]
  shape = 'x'.join(map(str, tensor.shape))
  return f'{op.name} (makes tensor {tensor.name!r}, {shape} {tensor.dtype})'


def _refused_operators(
  target: targets.Target, refused: Sequence[vela.UnsupportedOperator]
) -> Iterator[str]:
  """Yields the operators that the target's compiler refuses."""
  for refusal in refused:
    yield (
      f'{refusal.operator} (makes tensor {refusal.tensor!r}) is refused: '
      f'{refusal.reason}{_remedy(refusal.operator, target)}'
    )


def _operator_violations(
  graph: tflite_graph.Graph, target: targets.Target
) -> Iterator[str]:
  """Yields the operators that a target without a compiler does not run."""
  if target.compiler is not None:
    return
  yield from _int16_violations(graph, target)
  for index, op in enumerate(graph.operators):
    if target.operators is not None and op.name not in target.operators:
      remedy = '' if op.name == 'RESIZE_BILINEAR' else _remedy(op.name, target)
      yield f'{describe_operator(graph, index)} is not supported{remedy}'
    if op.name == 'RESIZE_BILINEAR':
      yield from _resize_violations(graph, index, target)


def _int16_violations(
  graph: tflite_graph.Graph, target: targets.Target
) -> Iterator[str]:
  """Yields one phrase on int16 operators that the target may not support."""
  if target.operators is None:
    return
  unsupported = [
    index
    for index, op in enumerate(graph.operators)
    if op.name not in target.int16_operators
    and 'int16' in {graph.tensors[i].dtype for i in (*op.inputs, *op.outputs)}
  ]
  if unsupported:
    count = len(unsupported) - 1
    more = f' (and {count} more)' if count else ''
    yield (
      f'{describe_operator(graph, unsupported[0])}{more} has 16-bit '
      f'activations, which {target.name} is not known to support '
      f'({target.sources["operators"]}); leave such layers out of --wide_layers'
    )


def _resize_violations(
  graph: tflite_graph.Graph, index: int, target: targets.Target
) -> Iterator[str]:
  """Yields a RESIZE_BILINEAR whose ratio the target does not support."""
  op = graph.operators[index]
  start, end = (
    graph.tensors[i].shape[1:3] for i in (op.inputs[0], op.outputs[0])
  )
  # The graph does not record whether corners are aligned, so both must fail.
  if not any(
    resizes.Resize(start, end, aligned).is_supported_by(target)
    for aligned in (False, True)
  ):
    ratio = max(resizing.axis_ratios(start, end, False))
    yield (
      f'{describe_operator(graph, index)} resizes by {ratio:g}'
      f'{_remedy(op.name, target)}'
    )


def _ram_violations(
  graph: tflite_graph.Graph, available: int | None
) -> Iterator[str]:
  """Yields a phrase if the planned arena exceeds the RAM."""
  activations = memory.activation_lifetimes(graph)
  needed = memory.plan_arena(activations)
  if available is None or needed <= available:
    return
  alive = memory.live_bytes(activations)
  peak = max(range(len(alive)), key=alive.__getitem__)
  yield (
    f'activations need {_format_kib(needed)} of RAM, it has '
    f'{_format_kib(available)}; most are alive at '
    f'{describe_operator(graph, peak)}: {_format_kib(alive[peak])}'
  )


def _flash_violations(
  graph: tflite_graph.Graph, available: int | None
) -> Iterator[str]:
  """Yields a phrase if the weights exceed the flash."""
  needed = tflite_graph.weight_bytes(graph)
  if available is None or needed <= available:
    return
  by_operator = [
    sum(graph.tensors[i].constant_bytes for i in op.inputs)
    for op in graph.operators
  ]
  largest = max(range(len(by_operator)), key=by_operator.__getitem__)
  yield (
    f'weights need {_format_kib(needed)} of flash, it has '
    f'{_format_kib(available)}; the largest are those of '
    f'{describe_operator(graph, largest)}: {_format_kib(by_operator[largest])}'
  )


def _vela_plan_violations(
  compiled: vela.VelaSummary, available: MemoryLimits
) -> Iterator[str]:
  """Yields the memories that are too small for the compiler's own plan."""
  for name, needed, limit in (
    ('SRAM', compiled.sram_bytes, available.ram_bytes),
    ('flash', compiled.flash_bytes, available.flash_bytes),
  ):
    if limit is not None and needed > limit:
      yield (
        f'Vela plans {_format_kib(needed)} of {name}, it has '
        f'{_format_kib(limit)}'
      )


def _remedy(operator: str, target: targets.Target) -> str:
  """Returns the remedy for an operator in parentheses, or ''."""
  remedy = _REMEDIES.get(operator)
  if operator == 'RESIZE_BILINEAR' and target.align_corners == ():
    remedy = _HALF_PIXEL_REMEDY
  return f' ({remedy})' if remedy else ''


def _format_kib(count: int) -> str:
  return f'{count / 1024:,.1f} KiB'
