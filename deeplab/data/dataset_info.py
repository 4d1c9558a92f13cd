"""The classes of a data set: names, colors, and the meaning of label values.

Prepared data, and all code after it, uses train ids: 0..num_classes - 1, and
IGNORE for pixels that are neither trained on nor scored. Raw annotation files
may use other ids; `DatasetInfo` defines them by `ignore_label` or `id_mapping`,
and only `raw_to_train_ids` converts them. `catalog.py` has the `DatasetInfo` of
each data set.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import os
import re
import reprlib
from typing import Any
from typing import NamedTuple

import numpy as np

from deeplab.files import text_files

# Train id of pixels that are neither trained on nor scored.
IGNORE = 255
# Suffixes of image files. Masks are never JPEG, whose compression changes ids.
IMAGE_SUFFIXES = (
  *('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.jfif', '.jpe'),
  *('.gif', '.jp2', '.j2k', '.avif', '.ppm', '.pgm', '.pbm', '.pnm'),
)

Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Classes, label values and origin of one data set.

  Two conventions for the same files, such as ADE20K with 150 or with 32
  classes, are two data sets.

  Attributes:
    name: name in configs.
    class_names: one name for each train id.
    palette: one RGB color for each train id, 0..255.
    has_user_colors: the palette is the user's, so that palette and grey masks
      may be read by color (`preparation/mask_files.py`).
    ignore_label: raw id that becomes IGNORE; None if there is none, or if
      `id_mapping` is given.
    ignore_color: RGB color that becomes IGNORE in RGB masks.
    splits: published number of examples by split.
    id_mapping: train id (or IGNORE) by raw id; None if raw ids are train ids.
    unmapped: train id of raw ids that `id_mapping` lacks; None if such an id is
      an error.
    unscored: names of classes that only some published evaluations score;
      `miou_scored` is the mean IoU of the others.
    url: home page.
    licence: terms of use, in short.
    instructions: how to get the data.
  """

  name: str
  class_names: tuple[str, ...]
  palette: tuple[Color, ...]
  ignore_label: int | None
  ignore_color: Color | None = None
  splits: Mapping[str, int] = dataclasses.field(default_factory=dict)
  id_mapping: Mapping[int, int] | None = None
  unmapped: int | None = None
  unscored: tuple[str, ...] = ()
  url: str = ''
  licence: str = ''
  instructions: str = ''
  # Not in the text that names prepared data: fingerprints of published data
  # sets stay as they are, and those of folders cover it on their own.
  has_user_colors: bool = dataclasses.field(default=False, repr=False)

  def __post_init__(self):
    if not 1 <= len(self.class_names) <= IGNORE:
      raise ValueError(
        f'{self.name}: {len(self.class_names)} classes; labels of 8 bits can '
        f'have 1 to {IGNORE} classes besides the ignored id {IGNORE}'
      )
    for name in self.class_names:
      try:
        _check_class_name(name)
      except ValueError as error:
        raise ValueError(f'{self.name}: {error}') from error
    if len(self.palette) != len(self.class_names):
      raise ValueError(
        f'{self.name}: {len(self.palette)} colors for '
        f'{len(self.class_names)} classes'
      )

  @property
  def num_classes(self) -> int:
    """Number of classes, IGNORE not counted."""
    return len(self.class_names)


def train_id_table(info: DatasetInfo) -> dict[int, int]:
  """Returns the train id, or IGNORE, of each raw id that is named."""
  if info.id_mapping is not None:
    return dict(info.id_mapping)
  mapping = {i: i for i in range(info.num_classes)}
  if info.ignore_label is not None:
    mapping[info.ignore_label] = IGNORE
  return mapping


def describe_ignored_ids(info: DatasetInfo) -> str:
  """Returns a noun phrase for the ids that are ignored, for messages."""
  if info.id_mapping is not None:
    return 'an id of config.data.id_map'
  return f'the ignore label ({info.ignore_label})'


def raw_to_train_ids(raw: np.ndarray, info: DatasetInfo) -> np.ndarray:
  """Converts raw ids of an annotation file to train ids.

  Args:
    raw: [H, W] of any integer dtype.
    info: gives the mapping.

  Returns:
    [H, W] uint8 train ids below `info.num_classes`, or IGNORE.

  Raises:
    ValueError: a raw id has no train id.
  """
  mapping = train_id_table(info)
  counts = np.bincount(raw.clip(-1, 65536).ravel().astype(np.int64) + 1)
  table = np.zeros(len(counts), np.uint8)
  for i in np.flatnonzero(counts).tolist():
    value = i - 1
    train_id = mapping.get(value, info.unmapped)
    if train_id is None:
      raise ValueError(
        f'label value {value} ({counts[i]} pixels) is neither one of the '
        f'{info.num_classes} classes of {info.name} nor '
        f'{describe_ignored_ids(info)}: correct the mask or the configured '
        'classes'
        + (
          ', or map the values to classes by config.data.id_map'
          if info.name == 'folder'
          else ''
        )
      )
    table[i] = train_id
  return table[raw.clip(-1, 65536).astype(np.int64) + 1]


def check_color(values: Iterable[Any]) -> Color:
  """Returns a color as three numbers in 0..255.

  Args:
    values: whole numbers, or texts of them.

  Raises:
    ValueError: there are not three, or one is no whole number in 0..255.
  """
  values = tuple(values)
  try:
    red, green, blue = (int(value) for value in values)
    whole = all(
      isinstance(value, str) or value == int(value) for value in values
    )
  except (OverflowError, TypeError, ValueError):
    whole = False
  if not whole or not all(0 <= value <= 255 for value in (red, green, blue)):
    written = ' '.join(str(value) for value in values)
    raise ValueError(
      f'color {reprlib.repr(written)} is not three whole numbers in 0..255'
    )
  return red, green, blue


def voc_palette(count: int) -> tuple[Color, ...]:
  """Returns the first `count` colors of Pascal VOC's palette.

  Bits 0, 1, 2 of the class id are the top bits of red, green and blue; bits 3,
  4, 5 are the next ones, and so on (VOC development kit).
  """
  colors = []
  for i in range(count):
    color = [0, 0, 0]
    for bit in range(8):
      color[bit % 3] |= (i >> bit & 1) << (7 - bit // 3)
    colors.append((color[0], color[1], color[2]))
  return tuple(colors)


def _check_class_name(name: str) -> None:
  """Raises ValueError if a name cannot be a line of a list of classes."""
  if re.search(r'[\x00-\x1f\x7f\x85\u2028\u2029]', name):
    raise ValueError(
      f'the class name {name!r} has a line break or a control character, and '
      'lists of classes have one name a line: rename it'
    )


class ClassTable(NamedTuple):
  """Rows of a class table.

  Attributes:
    names: of the classes.
    colors: one for each, or none at all.
    values: raw ids of each in masks, or none at all.
  """

  names: tuple[str, ...]
  colors: tuple[Color, ...]
  values: tuple[tuple[int, ...], ...]


# `255: person`, `0,4-6: background` and Roboflow's `1, road`.
_VALUES = re.compile(r'(\d+(?:\s*[-,]\s*\d+)*)\s*:\s*(\S.*)')
_CSV_ROW = re.compile(r'(\d+)\s*,\s*(\S.*)')


def read_class_table(path: str | os.PathLike[str]) -> ClassTable:
  """Reads a class table with one line a class.

  A line is `name` or `name red green blue`, and may begin with the raw ids of
  the class in masks, such as `255: person` or `0,4-6: background`. A file .csv
  has lines `id, name`, and a header.

  Raises:
    ValueError: the file is not a text, a name has a control character, a number
      of a color is not in 0..255, or some lines have a color, or ids, and
      others do not.
  """
  names: list[str] = []
  colors: list[Color] = []
  values: list[tuple[int, ...]] = []
  is_csv = os.fspath(path).endswith('.csv')
  lines = text_files.read_text(path).splitlines()
  for number, line in enumerate(lines, 1):
    match = (_CSV_ROW if is_csv else _VALUES).fullmatch(line.strip())
    if is_csv and not match:
      continue  # the header
    if match:
      values.append(_parse_values(match[1]))
      line = match[2]
    words = line.split()
    if not words:
      continue
    try:
      if len(words) > 3 and all(word.isdecimal() for word in words[-3:]):
        colors.append(check_color(words[-3:]))
        words = words[:-3]
      names.append(' '.join(words))
      _check_class_name(names[-1])
    except ValueError as error:
      raise ValueError(f'{path}: line {number}: {error}') from error
  if colors and len(colors) != len(names):
    raise ValueError(
      f'{path}: {len(colors)} of {len(names)} lines end in a color; give '
      'every class a color, or none'
    )
  if values and len(values) != len(names):
    raise ValueError(
      f'{path}: {len(values)} of {len(names)} lines begin with ids, such as '
      '`255: person`; give every class its ids, or none'
    )
  return ClassTable(tuple(names), tuple(colors), tuple(values))


def _parse_values(text: str) -> tuple[int, ...]:
  """Parses '0,4-6' to (0, 4, 5, 6); ranges are of at most 16 bits."""
  values: list[int] = []
  for part in text.split(','):
    first, _, last = part.partition('-')
    low, high = int(first[:9]), int((last or first).strip()[:9])
    values += range(low, min(high, 65535) + 1)
  return tuple(values)
