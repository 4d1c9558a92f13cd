"""What a data set's labels mean: classes, colours, ids.

Everything after the builders sees train ids: 0..num_classes - 1, and IGNORE
where nothing is scored. What a raw annotation file holds instead is said by a
`DatasetInfo`, in `ignore_label` or `id_mapping`, and `raw_to_train_ids` is the
one way from the former to the latter. `catalog.py` holds the facts of each set.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib

import numpy as np

# The id of pixels that are neither trained on nor scored, after reading.
IGNORE = 255
# Images that people have; masks are never JPEG.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')

Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """The facts about one data set, as one way of using it reads them.

  Attributes:
    name: name in configs.
    class_names: one name a train id.
    palette: one RGB colour a train id, 0..255.
    ignore_label: the raw id that becomes IGNORE; None where there is none, or
      where `id_mapping` says it all.
    ignore_color: the RGB colour that becomes IGNORE in RGB-coloured masks.
    splits: number of examples by split, of the published sets.
    id_mapping: train id (or IGNORE) by raw id; None if the raw ids are the
      train ids.
    unmapped: train id of the raw ids that `id_mapping` does not name; None if
      such an id is an error.
    unscored: names of the classes that one of two published readings counts
      as void; `miou_scored` is the mean IoU of the others.
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

  def __post_init__(self):
    if not 1 <= len(self.class_names) <= IGNORE:
      raise ValueError(
        f'{self.name}: {len(self.class_names)} classes; label images of 8 bits'
        f' hold 1 to {IGNORE}, beside the ignored id {IGNORE}'
      )
    if len(self.palette) != len(self.class_names):
      raise ValueError(
        f'{self.name}: {len(self.palette)} colours for '
        f'{len(self.class_names)} classes'
      )

  @property
  def num_classes(self) -> int:
    """Number of train ids."""
    return len(self.class_names)


def raw_to_train_ids(raw: np.ndarray, info: DatasetInfo) -> np.ndarray:
  """Turns the ids of an annotation file into train ids.

  Args:
    raw: [H, W] of any integer dtype.
    info: the data set.

  Returns:
    [H, W] uint8 with values below `info.num_classes`, or IGNORE.

  Raises:
    ValueError: an id that the data set does not have.
  """
  if info.id_mapping is None:
    mapping = {i: i for i in range(info.num_classes)}
    if info.ignore_label is not None:
      mapping[info.ignore_label] = IGNORE
  else:
    mapping = dict(info.id_mapping)
  counts = np.bincount(raw.clip(-1, 65536).ravel().astype(np.int64) + 1)
  table = np.zeros(len(counts), np.uint8)
  for i in np.flatnonzero(counts).tolist():
    value = i - 1
    train_id = mapping.get(value, info.unmapped)
    if train_id is None:
      raise ValueError(
        f'label value {value} ({counts[i]} pixels) is neither one of the '
        f'{info.num_classes} classes of {info.name} nor its ignore label '
        f'({info.ignore_label}): correct the mask or the configured classes'
      )
    table[i] = train_id
  return table[raw.clip(-1, 65536).astype(np.int64) + 1]


def voc_palette(count: int) -> tuple[Color, ...]:
  """Returns the first `count` colours of VOC's scheme.

  Bits 0, 1, 2 of the class id become the top bits of red, green and blue;
  bits 3, 4, 5 the next ones; and so on (VOC development kit).
  """
  colors = []
  for i in range(count):
    color = [0, 0, 0]
    for bit in range(8):
      color[bit % 3] |= (i >> bit & 1) << (7 - bit // 3)
    colors.append((color[0], color[1], color[2]))
  return tuple(colors)


def read_class_table(
  path: str | os.PathLike[str],
) -> tuple[tuple[str, ...], tuple[Color, ...]]:
  """Reads a class table: a line `name` or `name red green blue` a class.

  Returns:
    Names, and as many colours or none.

  Raises:
    ValueError: some lines have colours and others not.
  """
  names: list[str] = []
  colors: list[Color] = []
  for line in pathlib.Path(path).read_text('utf-8').splitlines():
    words = line.split()
    if not words:
      continue
    if len(words) > 3 and all(word.isdigit() for word in words[-3:]):
      red, green, blue = (int(word) for word in words[-3:])
      colors.append((red, green, blue))
      words = words[:-3]
    names.append(' '.join(words))
  if colors and len(colors) != len(names):
    raise ValueError(
      f'{path}: {len(colors)} of {len(names)} lines end in a colour; give '
      'every class one, or none'
    )
  return tuple(names), tuple(colors)
