r"""Finds the network sizes that fit a device, without training.

    python -m experiments.device_search --target=stm32n6 \
        --config=configs/person_mnv2.py --ram_kib=2048 --max_ms=20

traces the config's network at each requested width multiplier, input size, head
width and output stride (shapes only, a few seconds each), plans its memory, and
counts weights and MACs as for an int8 file. It prints the Pareto-optimal
candidates: those that fit and are not exceeded in all four sizes by another
that fits. Training decides among them. --output=FOLDER writes the table of all
candidates and a plot. Large resizes run in stages where the target needs it, as
in an export.

Cycles and time are estimates: MACs at the peak rate of the device.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import itertools
from typing import Any

from absl import app
from absl import flags
import jax
from ml_collections import ConfigDict
from ml_collections import config_flags
import numpy as np
import tqdm

from deeplab import cli
from deeplab import text
from deeplab import visualize
from deeplab.data import catalog
from deeplab.files import output_files
from deeplab.models import registry
from export.devices import fit
from export.devices import resizes
from export.devices import targets
from export.graph import memory
from export.graph import tflite_graph
from export.graph import trace


@dataclasses.dataclass(frozen=True)
class Candidate:
  """Sizes of one network; None where the network has no such field."""

  alpha: float | None
  size: tuple[int, int]
  channels: int | None
  output_stride: int

  def dominates(self, other: 'Candidate') -> bool:
    """Returns True if it is at least as large in every size, and not equal."""
    pairs = (
      (self.alpha or 0, other.alpha or 0),
      (self.size[0] * self.size[1], other.size[0] * other.size[1]),
      (self.channels or 0, other.channels or 0),
      (-self.output_stride, -other.output_stride),
    )
    return self != other and all(a >= b for a, b in pairs)


@dataclasses.dataclass(frozen=True)
class DeviceCost:
  """Cost of a candidate as an int8 file.

  Attributes:
    macs: multiply-accumulates per image.
    ram_bytes: planned arena in bytes.
    flash_bytes: weights in bytes.
    cycles: estimate; None if the speed of the target is not known.
    ms: estimated milliseconds; None if the speed is not known.
    refusals: reasons why it does not fit, one phrase each.
  """

  macs: int
  ram_bytes: int
  flash_bytes: int
  cycles: float | None
  ms: float | None
  refusals: tuple[str, ...]


def iterate_candidates(
  config: ConfigDict,
  alphas: Sequence[float] | None = None,
  sizes: Sequence[tuple[int, int]] | None = None,
  channels: Sequence[int] | None = None,
  strides: Sequence[int] | None = None,
) -> Iterator[Candidate]:
  """Yields every combination; None keeps the value of the config.

  Raises:
    ValueError: the encoder or the head lacks a field.
  """
  model = config.model
  for flag, asked, part, field in (
    ('alphas', alphas, 'encoder', 'alpha'),
    ('channels', channels, 'head', 'channels'),
  ):
    if asked and field not in model[part]:
      raise ValueError(
        f'--{flag}: the {part} {model[part].name} has no field {field!r}'
      )
  own: Any = lambda part, field: [model[part].get(field)]
  yield from itertools.starmap(
    Candidate,
    itertools.product(
      alphas or own('encoder', 'alpha'),
      sizes or [tuple(config.eval.static_size)],
      channels or own('head', 'channels'),
      strides or [model.output_stride],
    ),
  )


def estimate_cost(
  config: ConfigDict,
  candidate: Candidate,
  target: targets.Target,
  memory_limits: fit.MemoryLimits,
  max_ms: float | None = None,
  max_cycles: float | None = None,
  host: bool = False,
) -> DeviceCost:
  """Traces one candidate and estimates its cost.

  Args:
    config: the experiment.
    candidate: sizes to set in the config.
    target: the device.
    memory_limits: RAM and flash of the device.
    max_ms, max_cycles: limits of the estimates; None for no limit.
    host: True if the host computes the last resize.
  """
  model = ConfigDict(config.model)
  with model.unlocked():
    if candidate.alpha is not None:
      model.encoder.alpha = candidate.alpha
    if candidate.channels is not None:
      model.head.channels = candidate.channels
    model.output_stride = candidate.output_stride
    model.dtype = 'float32'
  classes = catalog.info_for(config.data).num_classes
  refusals = []
  trained, model.resize_ratio = model.resize_ratio, 0
  build = functools.partial(
    registry.build_model, model, classes, depthwise='conv', pointwise='conv'
  )
  whole = resizes.find_network_resizes(build(), (1, *candidate.size, 3), host)
  try:
    model.resize_ratio = resizes.choose_ratio(whole, trained, target)
  except ValueError as error:
    refusals.append(str(error))
  graph = trace.trace_network(build(), candidate.size, host)
  macs = tflite_graph.count_macs(graph)
  cycles, ms = target.estimate_cycles(macs), target.estimate_ms(macs)
  refusals += fit.find_violations(graph, target, memory_limits)
  if max_ms is not None and ms is not None and ms > max_ms:
    refusals.append(f'{ms:.1f} ms at least, of {max_ms:g}')
  if max_cycles is not None and cycles is not None and cycles > max_cycles:
    refusals.append(f'{cycles:,.0f} cycles at least, of {max_cycles:,.0f}')
  return DeviceCost(
    macs,
    memory.plan_arena(memory.activation_lifetimes(graph)),
    tflite_graph.weight_bytes(graph),
    cycles,
    ms,
    tuple(refusals),
  )


SearchResults = list[tuple[Candidate, DeviceCost]]


def pareto_front(found: SearchResults) -> SearchResults:
  """Returns the fitting candidates that none dominates, by increasing MACs."""
  fitting = [(choice, cost) for choice, cost in found if not cost.refusals]
  best = [
    (choice, cost)
    for choice, cost in fitting
    if not any(other.dominates(choice) for other, _ in fitting)
  ]
  return sorted(best, key=lambda x: x[1].macs)


def format_table(found: SearchResults) -> str:
  """Returns a Markdown table of candidates and their costs."""
  header = (
    *('alpha', 'input', 'head', 'output stride', 'MACs (M)', 'RAM KiB'),
    *('flash KiB', 'cycles (M), at least', 'ms, at least', 'fits'),
  )
  rows = [
    (
      text.format_number(choice.alpha, 'g'),
      'x'.join(map(str, choice.size)),
      text.format_number(choice.channels),
      str(choice.output_stride),
      f'{cost.macs / 1e6:,.0f}',
      f'{cost.ram_bytes / 1024:,.0f}',
      f'{cost.flash_bytes / 1024:,.0f}',
      text.format_number(cost.cycles and cost.cycles / 1e6, ',.2f'),
      text.format_number(cost.ms, ',.2f'),
      cost.refusals[0].split(';')[0] if cost.refusals else 'yes',
    )
    for choice, cost in found
  ]
  return '\n'.join(text.format_table(header, rows))


def plot_candidates(
  found: SearchResults, memory_limits: fit.MemoryLimits, title: str
) -> np.ndarray:
  """Plots RAM over MACs of all candidates; returns uint8 [H, W, 3]."""
  from matplotlib import figure as figures

  figure = figures.Figure(figsize=(8, 5), dpi=100, layout='constrained')
  axes = figure.subplots()
  best = pareto_front(found)
  kinds = (
    ('does not fit', [x for x in found if x[1].refusals], '#bbbbbb', 'x', 40),
    ('fits', [x for x in found if not x[1].refusals], '#4c78a8', 'o', 30),
    ('largest that fit', best, '#e45756', 'o', 60),
  )
  for label, group, color, marker, area in kinds:
    axes.scatter(
      [cost.ram_bytes / 1024 for _, cost in group],
      [cost.macs / 1e6 for _, cost in group],
      c=color,
      marker=marker,
      s=area,
      label=label,
    )
  for choice, cost in best:
    axes.annotate(
      f'{choice.size[0]}, {choice.alpha or "-"}, {choice.channels or "-"}, '
      f'/{choice.output_stride}',
      (cost.ram_bytes / 1024, cost.macs / 1e6),
      xytext=(6, -10),
      textcoords='offset points',
      fontsize=8,
    )
  if memory_limits.ram_bytes is not None:
    limit = memory_limits.ram_bytes / 1024
    largest = max(cost.ram_bytes / 1024 for _, cost in found)
    if limit < 3 * largest:
      axes.axvline(limit, color='black', lw=1, ls='--', label='RAM')
  axes.set_xscale('log')
  axes.set_yscale('log')
  axes.set_xlabel('RAM of the plan, KiB')
  axes.set_ylabel('multiply-accumulates, millions')
  axes.set_title(f'{title}: height, alpha, head, output stride', fontsize=11)
  axes.legend(frameon=False)
  axes.grid(alpha=0.3, which='both')
  axes.spines[['top', 'right']].set_visible(False)
  return visualize.render_figure(figure)


def _parse_list(
  name: str, texts: Sequence[str] | None, kind: Callable[[str], Any]
) -> list[Any] | None:
  """Returns the values of a list flag; None if it was not given."""
  try:
    return None if texts is None else [kind(x) for x in texts]
  except ValueError as error:
    raise ValueError(f'--{name}: {error}') from None


def _parse_size(text: str) -> tuple[int, int]:
  height, _, width = text.partition('x')
  return int(height), int(width or height)


# Shapes only: no weights, no images.
_READ_FIELDS = cli.ReadFields(
  ('name', *cli.DATASET_FIELDS, 'model', 'eval.static_size'),
  but=(
    *('model.dtype', 'model.depthwise', 'model.pointwise', 'model.remat'),
    'model.frozen_norms',
  ),
)


def define_flags() -> flags.FlagHolder:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_enum('target', None, sorted(targets.TARGETS), 'The device.')
  for name, what in (
    ('alphas', 'Width multipliers of the encoder'),
    ('sizes', 'Inputs, 256 or 352x480'),
    ('channels', 'Widths of the head'),
    ('output_strides', 'Output strides'),
  ):
    flags.DEFINE_list(name, None, f'{what}; default: that of the config.')
  flags.DEFINE_integer(
    'ram_kib', None, 'RAM in KiB, instead of that of the target.'
  )
  flags.DEFINE_integer(
    'flash_kib', None, 'Flash in KiB, instead of that of the target.'
  )
  flags.DEFINE_float(
    'max_ms', None, 'Upper limit of the estimated milliseconds.'
  )
  flags.DEFINE_float('max_cycles', None, 'Upper limit of the estimated cycles.')
  flags.DEFINE_enum(
    'resize',
    'graph',
    ['graph', 'host'],
    'Where the last resize runs; "host": it is not counted.',
  )
  flags.DEFINE_string(
    'output', None, 'Folder for budget.json, budget.md and budget.png.'
  )
  cli.define_overwrite_flag(flags.FLAGS)
  return config_flags.DEFINE_config_file(
    'config', None, 'Config of the network.'
  )


def _run(config_flag: flags.FlagHolder) -> None:
  values = flags.FLAGS
  config = cli.config_from_flag(config_flag, reads=_READ_FIELDS)
  if config is None or values.target is None:
    raise ValueError('--config and --target are needed; see --help')
  files = None
  if values.output:
    files = output_files.OutputFiles(values.output, overwrite=values.overwrite)
    files.check([f'budget.{suffix}' for suffix in ('json', 'md', 'png')])
  target = targets.get_target(values.target)
  available = fit.memory_limits(target, values.ram_kib, values.flash_kib)
  for flag, estimate in (
    ('max_ms', target.estimate_ms(1)),
    ('max_cycles', target.estimate_cycles(1)),
  ):
    if values[flag].value is not None and estimate is None:
      raise ValueError(
        f'--{flag}: there is no estimate for {target.name}; its speed is not '
        'published'
      )
  asked = list(
    iterate_candidates(
      config,
      _parse_list('alphas', values.alphas, float),
      _parse_list('sizes', values.sizes, _parse_size),
      _parse_list('channels', values.channels, int),
      _parse_list('output_strides', values.output_strides, int),
    )
  )
  host = values.resize == 'host'
  limits = {'max_ms': values.max_ms, 'max_cycles': values.max_cycles}
  found = [
    (
      choice,
      estimate_cost(config, choice, target, available, **limits, host=host),
    )
    for choice in tqdm.tqdm(asked, unit='network', disable=None)
  ]
  best = pareto_front(found)
  print(
    format_table(best) if best else 'No network fits:\n' + format_table(found)
  )
  if files:
    _write_results(files, config, target, available, found)


def _write_results(
  files: output_files.OutputFiles,
  config: ConfigDict,
  target: targets.Target,
  memory_limits: fit.MemoryLimits,
  found: SearchResults,
) -> None:
  """Writes the tables and the plot."""
  rows = [
    {'choice': dataclasses.asdict(a), 'cost': dataclasses.asdict(b)}
    for a, b in found
  ]
  files.write_json(
    'budget.json',
    {
      'config': config.name,
      'target': target.name,
      'limits': dataclasses.asdict(memory_limits),
      'found': rows,
    },
  )
  files.write_text(
    'budget.md',
    f'# {text.escape_markdown(config.name)} on {target.name}\n\n'
    f'The largest that fit:\n\n'
    f'{format_table(pareto_front(found))}\n\nAll:\n\n{format_table(found)}\n\n'
    '![RAM and work](budget.png)\n',
  )
  picture = plot_candidates(
    found, memory_limits, f'{config.name} on {target.name}'
  )
  with files.replace('budget.png') as path:
    visualize.save_image(picture, path)


if __name__ == '__main__':
  jax.config.config_with_absl()
  chosen = define_flags()
  app.run(
    lambda argv: cli.run_command(argv, lambda: _run(chosen)),
    flags_parser=cli.parse_flags,
  )
