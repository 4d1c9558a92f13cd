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
class Limits:
  """What a system gives a network; None for what is not limited.

  Attributes:
    ram_bytes: for activations.
    flash_bytes: for weights.
  """

  ram_bytes: int | None
  flash_bytes: int | None


def limits(
  target: targets.Target, ram_kib: int | None, flash_kib: int | None
) -> Limits:
  """Returns a target's memories, or what was given in their place (KiB)."""
  return Limits(
    target.memory_bytes if ram_kib is None else 1024 * ram_kib,
    target.flash_bytes if flash_kib is None else 1024 * flash_kib,
  )


def where(graph: tflite_graph.Graph, step: int) -> str:
  """Names the operator of a step, by the tensor that it makes."""
  op = graph.operators[min(step, len(graph.operators) - 1)]
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


def _kib(count: int) -> str:
  return f'{count / 1024:,.1f} KiB'


def _ram(graph: tflite_graph.Graph, available: int | None) -> Iterator[str]:
  activations = memory.lives(graph)
  needed = memory.arena(activations)
  if available is None or needed <= available:
    return
  alive = memory.timeline(activations)
  peak = max(range(len(alive)), key=alive.__getitem__)
  yield (
    f'activations need {_kib(needed)} of RAM, it has {_kib(available)}; most '
    f'are alive at {where(graph, peak)}: {_kib(alive[peak])}'
  )


def _flash(graph: tflite_graph.Graph, available: int | None) -> Iterator[str]:
  needed = tflite_graph.weight_bytes(graph)
  if available is None or needed <= available:
    return
  own = [
    sum(graph.tensors[i].constant_bytes for i in op.inputs)
    for op in graph.operators
  ]
  largest = max(range(len(own)), key=own.__getitem__)
  yield (
    f'weights need {_kib(needed)} of flash, it has {_kib(available)}; the '
    f'largest are those of {where(graph, largest)}: {_kib(own[largest])}'
  )


def advice(graph: tflite_graph.Graph, target: targets.Target) -> Iterator[str]:
  """Yields what makes a file slow there, though it runs."""
  if target.weights == 'per_channel':
    return
  for step, op in enumerate(graph.operators):
    scales = (
      len(graph.tensors[op.inputs[1]].scales) if op.name in _CONVOLUTIONS else 0
    )
    if scales > 1:
      yield (
        f'{where(graph, step)} has {scales} weight scales; {target.name} is '
        f'made for one a tensor ({target.sources["weights"]})'
      )
      return


def _wide(graph: tflite_graph.Graph, target: targets.Target) -> Iterator[str]:
  """Yields one phrase on the operators of 16 bits that it may not take."""
  if target.operators is None:
    return
  found = [
    step
    for step, op in enumerate(graph.operators)
    if op.name not in target.wide
    and 'int16' in {graph.tensors[i].dtype for i in (*op.inputs, *op.outputs)}
  ]
  if found:
    more = f', as {len(found) - 1} more have' if len(found) > 1 else ''
    yield (
      f'{where(graph, found[0])} has 16 bits{more}, which it is not known to '
      f'take ({target.sources["operators"]}); leave such layers out of '
      '--wide_layers'
    )


def _operators(
  graph: tflite_graph.Graph,
  target: targets.Target,
  refused: Sequence[vela.Refusal],
) -> Iterator[str]:
  for refusal in refused:
    yield (
      f'{refusal.operator} (makes tensor {refusal.tensor!r}) is refused: '
      f'{refusal.reason}{_remedy(refusal.operator, target)}'
    )
  if target.compiler is not None:
    return
  yield from _wide(graph, target)
  for step, op in enumerate(graph.operators):
    if target.operators is not None and op.name not in target.operators:
      remedy = '' if op.name == 'RESIZE_BILINEAR' else _remedy(op.name, target)
      yield f'{where(graph, step)} is no operator it takes{remedy}'
    if op.name != 'RESIZE_BILINEAR':
      continue
    before, after = (
      graph.tensors[i].shape[1:3] for i in (op.inputs[0], op.outputs[0])
    )
    # The graph does not tell which of the two it is.
    if not any(
      resizes.Resize(before, after, aligned).taken(target)
      for aligned in (False, True)
    ):
      ratio = max(resizing.ratios(before, after, False))
      remedy = _remedy(op.name, target)
      yield f'{where(graph, step)} resizes by {ratio:g}{remedy}'


def violations(
  graph: tflite_graph.Graph,
  target: targets.Target,
  available: Limits,
  refused: Sequence[vela.Refusal] = (),
) -> list[str]:
  """Returns why a file does not fit: layer and number, a phrase each.

  Args:
    graph: of an int8 file.
    target: the device.
    available: the memories.
    refused: what the target's compiler leaves off the NPU.
  """
  return [
    *_operators(graph, target, refused),
    *_ram(graph, available.ram_bytes),
    *_flash(graph, available.flash_bytes),
  ]


def _planned_by(compiled: vela.Compiled, available: Limits) -> Iterator[str]:
  """Yields what the compiler's own plan has no room for."""
  for what, needed, limit in (
    ('SRAM', compiled.sram_bytes, available.ram_bytes),
    ('flash', compiled.flash_bytes, available.flash_bytes),
  ):
    if limit is not None and needed > limit:
      yield f'Vela plans {_kib(needed)} of {what}, it has {_kib(limit)}'


def facts(
  graph: tflite_graph.Graph,
  path: str,
  target: targets.Target,
  available: Limits,
) -> dict[str, Any]:
  """Checks a file, and returns what the target makes of it.

  Args:
    graph: of an int8 file.
    path: where it lies, for the compiler.
    target: the device.
    available: the memories.

  Returns:
    `name`, `title`; `ram_bytes` and `flash_bytes`, the limits; `advice`;
    `estimate_ms`, see `Target.estimate_ms`; and `compiled`, what
    `vela.compile_file` found, None without a compiler.

  Raises:
    DoesNotFit: layers and numbers.
    ValueError: the compiler fails.
  """
  compiled = None
  if target.compiler == 'vela':
    compiled = vela.compile_file(path, target.name, available.ram_bytes)
  found = violations(
    graph, target, available, compiled.refused if compiled else ()
  )
  if compiled:
    found += _planned_by(compiled, available)
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
    'advice': list(advice(graph, target)),
    'estimate_ms': target.estimate_ms(tflite_graph.macs(graph)),
    'compiled': compiled and vela.facts(compiled),
  }
