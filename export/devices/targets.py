"""Devices: what they run and hold, read from the files of targets/.

A file describes a device, or a family whose `sizes` differ in some fields.
Every number names its source; null stands for what is not published or is no
property of the device, and nothing is checked against it.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

TARGETS_FOLDER = pathlib.Path(__file__).parent / 'targets'
ARGMAX_TYPES = ('int32', 'uint8')
_NUMERIC_FIELDS = (
  *('clock_hz', 'macs_per_cycle'),
  *('ram_bytes', 'external_ram_bytes', 'flash_bytes'),
)


@dataclasses.dataclass(frozen=True)
class Target:
  """One device.

  Attributes:
    name: as `--target` takes it.
    title: for people.
    compiler: 'vela', which then judges operators, or None.
    clock_hz: of what multiplies.
    macs_per_cycle: 8-bit multiply-accumulates, at best.
    ram_bytes: for activations, on chip.
    external_ram_bytes: for activations that find no room there.
    flash_bytes: for weights.
    operators: TFLite names that it takes; None: not checked.
    int16_operators: those of them that are known to take maps of 16 bits.
    half_pixel: whole ratios of a bilinear resize with half-pixel centres; None
      for any.
    align_corners: likewise of size - 1, with aligned corners.
    weights: 'per_channel' or 'per_tensor' scales.
    input_type: dtype that an int8 file should take.
    output_type: dtype that it should return.
    argmax_types: dtypes of class ids that it can return.
    sources: where each field comes from.
  """

  name: str
  title: str
  compiler: str | None
  clock_hz: float | None
  macs_per_cycle: int | None
  ram_bytes: int | None
  external_ram_bytes: int | None
  flash_bytes: int | None
  operators: frozenset[str] | None
  int16_operators: frozenset[str]
  half_pixel: tuple[int, ...] | None
  align_corners: tuple[int, ...] | None
  weights: str
  input_type: str
  output_type: str
  argmax_types: tuple[str, ...]
  sources: Mapping[str, str]

  @property
  def memory_bytes(self) -> int | None:
    """Bytes that activations may take, external RAM included."""
    if self.ram_bytes is None:
      return None
    return self.ram_bytes + (self.external_ram_bytes or 0)

  def estimate_cycles(self, macs: int) -> float | None:
    """Returns the least cycles that multiplying takes: a roofline, no more.

    Memory traffic, what else there is to compute, and idle multipliers all come
    on top.
    """
    return None if self.macs_per_cycle is None else macs / self.macs_per_cycle

  def estimate_ms(self, macs: int) -> float | None:
    """Returns the time of `estimate_cycles`, milliseconds."""
    cycles = self.estimate_cycles(macs)
    if self.clock_hz is None or cycles is None:
      return None
    return 1e3 * cycles / self.clock_hz

  def supports_resize_ratio(self, ratio: float, align_corners: bool) -> bool:
    """Whether it resizes by `ratio` in one step."""
    allowed = self.resize_ratios(align_corners)
    return allowed is None or ratio == 1 or ratio in allowed

  def resize_ratios(self, align_corners: bool) -> tuple[int, ...] | None:
    """Returns the ratios of a resize that it takes; None for any."""
    return self.align_corners if align_corners else self.half_pixel


def _parse_target(name: str, fields: Mapping[str, Any]) -> Target:
  ratios = lambda xs: None if xs is None else tuple(xs)
  operators = fields['operators']['names']
  sources = {key: fields[key]['source'] for key in _NUMERIC_FIELDS}
  for key in ('operators', 'resize', 'weights', 'types'):
    sources[key] = fields[key]['source']
  unsourced = sorted(key for key, source in sources.items() if not source)
  if unsourced:
    raise ValueError(f'names no source of {", ".join(unsourced)}')
  weights = fields['weights']['value']
  if weights not in ('per_channel', 'per_tensor'):
    raise ValueError(f'weights={weights!r} is not per_channel or per_tensor')
  return Target(
    name=name,
    title=fields['title'],
    compiler=fields['compiler'],
    **{key: fields[key]['value'] for key in _NUMERIC_FIELDS},
    operators=None if operators is None else frozenset(operators),
    int16_operators=frozenset(fields['operators'].get('wide', ())),
    half_pixel=ratios(fields['resize']['half_pixel']),
    align_corners=ratios(fields['resize']['align_corners']),
    weights=weights,
    input_type=fields['types']['input'],
    output_type=fields['types']['output'],
    argmax_types=tuple(fields['types'].get('ids', ARGMAX_TYPES)),
    sources=sources,
  )


def read_targets(path: pathlib.Path) -> list[Target]:
  """Returns the targets of one file.

  Raises:
    ValueError: the file lacks a field, a source, or is no JSON.
  """
  try:
    fields = json.loads(path.read_text(encoding='utf-8'))
    sizes = fields.pop('sizes', {path.stem.replace('_', '-'): {}})
    return [
      _parse_target(name, {**fields, **own}) for name, own in sizes.items()
    ]
  except KeyError as error:
    raise ValueError(f'{path} lacks the field {error}') from None
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


TARGETS: dict[str, Target] = {
  target.name: target
  for path in sorted(TARGETS_FOLDER.glob('*.json'))
  for target in read_targets(path)
}


def get_target(name: str) -> Target:
  """Returns a target by its name; ValueError if there is none."""
  if name not in TARGETS:
    raise ValueError(f'--target={name} is not one of {", ".join(TARGETS)}')
  return TARGETS[name]
