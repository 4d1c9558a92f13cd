"""Target devices, read from the JSON files in targets/.

A file describes one device, or a family whose `sizes` differ in some fields.
Every number names its source. A null value is not published or does not apply
to the device, and nothing is checked against it. README.md lists the fields.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from deeplab.files import json_files

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
    name: value of `--target`.
    title: name in reports.
    compiler: 'vela', which then decides about operators, or None.
    clock_hz: clock of the multipliers.
    macs_per_cycle: peak number of 8-bit multiply-accumulates.
    ram_bytes: on-chip memory for activations.
    external_ram_bytes: memory for activations that do not fit on the chip.
    flash_bytes: memory for weights.
    operators: TFLite operators that it runs; None if they are not checked.
    int16_operators: those of them that are known to run on int16 activations.
    half_pixel: integer ratios of a bilinear resize with half-pixel centers;
      None for any ratio.
    align_corners: integer ratios of size - 1 with aligned corners; None for
      any ratio.
    weights: granularity of weight scales, 'per_channel' or 'per_tensor'.
    input_type: default input dtype of an int8 file.
    output_type: default output dtype of an int8 file.
    argmax_types: output dtypes of class ids that it supports.
    sources: field -> document that the value was taken from.
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
    """Bytes for activations, external RAM included; None for no limit."""
    if self.ram_bytes is None:
      return None
    return self.ram_bytes + (self.external_ram_bytes or 0)

  def estimate_cycles(self, macs: int) -> float | None:
    """Estimates a lower bound of the cycles of a network.

    This is a compute roofline: memory traffic, other operators and idle
    multipliers add to it. None without `macs_per_cycle`.

    Args:
      macs: multiply-accumulates of the network.
    """
    return None if self.macs_per_cycle is None else macs / self.macs_per_cycle

  def estimate_ms(self, macs: int) -> float | None:
    """Returns the time of `estimate_cycles` in milliseconds, or None."""
    cycles = self.estimate_cycles(macs)
    if self.clock_hz is None or cycles is None:
      return None
    return 1e3 * cycles / self.clock_hz

  def supports_resize_ratio(self, ratio: float, align_corners: bool) -> bool:
    """Returns True if it resizes by `ratio` with one operator."""
    ratios = self.resize_ratios(align_corners)
    return ratios is None or ratio == 1 or ratio in ratios

  def resize_ratios(self, align_corners: bool) -> tuple[int, ...] | None:
    """Returns the resize ratios that it supports; None for any."""
    return self.align_corners if align_corners else self.half_pixel


def _parse_target(name: str, fields: Mapping[str, Any]) -> Target:
  """Makes a target of the fields of a JSON file.

  Raises:
    KeyError: a field is missing.
    ValueError: a source is missing, or `weights` has another value.
  """
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
  numbers = {key: fields[key]['value'] for key in _NUMERIC_FIELDS}
  for key, value in numbers.items():
    if value is not None and not (
      type(value) in (int, float) and 0 < value < 2**63
    ):
      raise ValueError(f'{key}={value!r} is not a positive number or null')
  return Target(
    name=name,
    title=fields['title'],
    compiler=fields['compiler'],
    **numbers,
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
  """Reads the targets of one JSON file.

  Raises:
    ValueError: the file is not JSON, lacks a field or the source of one, or has
      a field of another type.
  """
  fields = json_files.read_user_json(path)
  try:
    sizes = fields.pop('sizes', {path.stem.replace('_', '-'): {}})
    return [
      _parse_target(name, {**fields, **own}) for name, own in sizes.items()
    ]
  except KeyError as error:
    raise ValueError(f'{path} lacks the field {error}') from None
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  except (AttributeError, TypeError) as error:
    raise ValueError(
      f'{path}: damaged, or not a device ({error}); compare it with the other '
      f'files of {TARGETS_FOLDER}'
    ) from None


TARGETS: dict[str, Target] = {
  target.name: target
  for path in sorted(TARGETS_FOLDER.glob('*.json'))
  for target in read_targets(path)
}


def get_target(name: str) -> Target:
  """Returns a target by its name.

  Raises:
    ValueError: no target has that name; lists those that there are.
  """
  if name not in TARGETS:
    raise ValueError(f'--target={name} is not one of {", ".join(TARGETS)}')
  return TARGETS[name]
