"""Whether a file fits a target, and where it does not."""

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


# What to change where an operator is refused.
_REMEDIES = {
  'HARD_SWISH': 'train with config.model.encoder.activation=relu6',
  'RESIZE_BILINEAR': 'config.model.head.align_corners=True with an input of '
  '32k + 1 has whole ratios',
  'PAD': "train with config.model.encoder.padding='same', or use an input of "
  '32k + 1',
  'SUB': 'pass --normalization=caller, which takes it out of the file',
}


class DoesNotFit(ValueError):
  """A file needs more than its target has."""


@dataclasses.dataclass(frozen=True)
class MemoryLimits:
  """What a system gives a network; None for what is not limited.

  Attributes:
    ram_bytes: for activations.
    flash_bytes: for weights.
  """

  ram_bytes: int | None
  flash_bytes: int | None


def memory_limits(
  target: targets.Target, ram_kib: int | None, flash_kib: int | None
) -> MemoryLimits:
  """Returns a target's memories, or what was given in their place (KiB)."""
  return MemoryLimits(
    target.memory_bytes if ram_kib is None else 1024 * ram_kib,
    target.flash_bytes if flash_kib is None else 1024 * flash_kib,
  )


def describe_operator(graph: tflite_graph.Graph, operator_index: int) -> str:
  """Names the operator of a step, by the tensor that it makes."""
  op = graph.operators[min(operator_index, len(graph.operators) - 1)]
  tensor = graph.tensors[op.outputs[0]]
  shape = 'x'.join(map(str, tensor.shape))
  return f'{op.name} (makes tensor {tensor.name!r}, {shape} {tensor.dtype})'


def _remedy(operator: str, target: targets.Target) -> str:
  remedy = _REMEDIES.get(operator)
  if operator == 'RESIZE_BILINEAR' and target.align_corners == ():
    remedy = (
      'config.model.head.align_corners=False with an input of 32k has whole '
      'ratios'
    )
  return f' ({remedy})' if remedy else ''


def _format_kib(count: int) -> str:
  return f'{count / 1024:,.1f} KiB'


def _ram_violations(
  graph: tflite_graph.Graph, available: int | None
) -> Iterator[str]:
  activations = memory.activation_lifetimes(graph)
  needed = memory.plan_arena(activations)
  if available is None or needed <= available:
    return
  alive = memory.live_bytes(activations)
  peak = max(range(len(alive)), key=alive.__getitem__)
  yield (
    f'activations need {_format_kib(needed)} of RAM, it has '
    f'{_format_kib(available)}; most '
    f'are alive at {describe_operator(graph, peak)}: {_format_kib(alive[peak])}'
  )


def _flash_violations(
  graph: tflite_graph.Graph, available: int | None
) -> Iterator[str]:
  needed = tflite_graph.weight_bytes(graph)
  if available is None or needed <= available:
    return
  own = [
    sum(graph.tensors[i].constant_bytes for i in op.inputs)
    for op in graph.operators
  ]
  largest = max(range(len(own)), key=own.__getitem__)
  yield (
    f'weights need {_format_kib(needed)} of flash, it has '
    f'{_format_kib(available)}; the '
    f'largest are those of {describe_operator(graph, largest)}: '
    f'{_format_kib(own[largest])}'
  )


def find_performance_issues(
  graph: tflite_graph.Graph, target: targets.Target
) -> Iterator[str]:
  """Yields what makes a file slow there, though it runs."""
  if target.weights == 'per_channel':
    return
  for step, op in enumerate(graph.operators):
    scales = (
      len(graph.tensors[op.inputs[1]].scales) if op.name in _CONVOLUTIONS else 0
    )
    if scales > 1:
      yield (
        f'{describe_operator(graph, step)} has {scales} weight scales; '
        f'{target.name} is '
        f'made for one a tensor ({target.sources["weights"]})'
      )
      return


def _int16_violations(
  graph: tflite_graph.Graph, target: targets.Target
) -> Iterator[str]:
  """Yields one phrase on the operators of 16 bits that it may not take."""
  if target.operators is None:
    return
  found = [
    step
    for step, op in enumerate(graph.operators)
    if op.name not in target.int16_operators
    and 'int16' in {graph.tensors[i].dtype for i in (*op.inputs, *op.outputs)}
  ]
  if found:
    more = f', as {len(found) - 1} more have' if len(found) > 1 else ''
    yield (
      f'{describe_operator(graph, found[0])} has 16 bits{more}, which it is '
      'not known to '
      f'take ({target.sources["operators"]}); leave such layers out of '
      '--wide_layers'
    )


def _operator_violations(
  graph: tflite_graph.Graph,
  target: targets.Target,
  refused: Sequence[vela.UnsupportedOperator],
) -> Iterator[str]:
  for refusal in refused:
    yield (
      f'{refusal.operator} (makes tensor {refusal.tensor!r}) is refused: '
      f'{refusal.reason}{_remedy(refusal.operator, target)}'
    )
  if target.compiler is not None:
    return
  yield from _int16_violations(graph, target)
  for step, op in enumerate(graph.operators):
    if target.operators is not None and op.name not in target.operators:
      remedy = '' if op.name == 'RESIZE_BILINEAR' else _remedy(op.name, target)
      yield f'{describe_operator(graph, step)} is no operator it takes{remedy}'
    if op.name != 'RESIZE_BILINEAR':
      continue
    before, after = (
      graph.tensors[i].shape[1:3] for i in (op.inputs[0], op.outputs[0])
    )
    # The graph does not tell which of the two it is.
    if not any(
      resizes.Resize(before, after, aligned).is_supported_by(target)
      for aligned in (False, True)
    ):
      ratio = max(resizing.axis_ratios(before, after, False))
      remedy = _remedy(op.name, target)
      yield f'{describe_operator(graph, step)} resizes by {ratio:g}{remedy}'


def find_violations(
  graph: tflite_graph.Graph,
  target: targets.Target,
  available: MemoryLimits,
  refused: Sequence[vela.UnsupportedOperator] = (),
) -> list[str]:
  """Returns why a file does not fit: layer and number, a phrase each.

  Args:
    graph: of an int8 file.
    target: the device.
    available: the memories.
    refused: what the target's compiler leaves off the NPU.
  """
  return [
    *_operator_violations(graph, target, refused),
    *_ram_violations(graph, available.ram_bytes),
    *_flash_violations(graph, available.flash_bytes),
  ]


def _vela_plan_violations(
  compiled: vela.VelaSummary, available: MemoryLimits
) -> Iterator[str]:
  """Yields what the compiler's own plan has no room for."""
  for what, needed, limit in (
    ('SRAM', compiled.sram_bytes, available.ram_bytes),
    ('flash', compiled.flash_bytes, available.flash_bytes),
  ):
    if limit is not None and needed > limit:
      yield (
        f'Vela plans {_format_kib(needed)} of {what}, it has '
        f'{_format_kib(limit)}'
      )


def check_fit(
  graph: tflite_graph.Graph,
  path: str,
  target: targets.Target,
  available: MemoryLimits,
) -> dict[str, Any]:
  """Checks a file, and returns what the target makes of it.

  Args:
    graph: of an int8 file.
    path: where it lies, for the compiler.
    target: the device.
    available: the memories.

  Returns:
    `name`, `title`; `ram_bytes` and `flash_bytes`, the limits;
    `find_performance_issues`; `estimate_ms`, see `Target.estimate_ms`; and
    `compiled`, what `vela.compile_file` found, None without a compiler.

  Raises:
    DoesNotFit: layers and numbers.
    ValueError: the compiler fails.
  """
  compiled = None
  if target.compiler == 'vela':
    compiled = vela.compile_file(path, target.name, available.ram_bytes)
  found = find_violations(
    graph, target, available, compiled.refused if compiled else ()
  )
  if compiled:
    found += _vela_plan_violations(compiled, available)
  if found:
    rest = f'; and {len(found) - 4} more' if len(found) > 4 else ''
    raise DoesNotFit(
      f'{os.path.basename(path)} does not fit {target.name}: '
      f'{"; ".join(found[:4])}{rest}'
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
