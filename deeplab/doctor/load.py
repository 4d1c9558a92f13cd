"""Reads an example as far as it can be read, and names its faults.

A folder's files are read as they are. Any other data set is checked while it is
prepared, which ends without prepared data if an example has a fault; else its
prepared examples are read.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.data import image_format
from deeplab.data import pipeline
from deeplab.data.builders import folder
from deeplab.data.preparation import errors
from deeplab.data.preparation import raw_files

Palette = tuple[tuple[int, dataset_info.Color], ...]

# Values that a sentence names, at most.
_NAMED = 5


class Place(NamedTuple):
  """Where an example is.

  Attributes:
    split: its split.
    image: the image file, or the name of a prepared example.
    mask: the mask file; '' for a prepared example.
    number: a prepared example's place in its split.
  """

  split: str
  image: str
  mask: str = ''
  number: int = 0


class Fault(NamedTuple):
  """What is wrong with an example.

  Attributes:
    kind: one of `findings.KINDS`.
    text: a sentence that begins with the file.
    place: the example, where it is none of those that are scanned.
  """

  kind: str
  text: str
  place: Place | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
  """An example, as far as it can be read.

  Attributes:
    place: where it is.
    image: uint8 or uint16 [H, W, C].
    label: uint8 [h, w], train ids or IGNORE, 0 where `wrong`.
    wrong: bool [h, w], pixels whose value is no class and not ignored; None
      for none.
    pixels: int64 [256], pixels by train id, IGNORE included, without `wrong`.
    palette: (raw id, its colour) of the ids that a palette mask has.
    beyond: the largest id that is no class, though it could be; -1 for none.
    faults: what is wrong.
  """

  place: Place
  image: np.ndarray | None = None
  label: np.ndarray | None = None
  wrong: np.ndarray | None = None
  pixels: np.ndarray | None = None
  palette: Palette = ()
  beyond: int = -1
  faults: tuple[Fault, ...] = ()


def listing(
  config: Any, split: str
) -> tuple[Sequence[Place] | int, list[Fault]]:
  """Returns what there is of a split, and what is missing or in the way.

  Args:
    config: the experiment; reads `data`.
    split: name of the split.

  Returns:
    Places of files, or the number of prepared examples; and faults.
  """
  with errors.collected() as texts:
    try:
      if config.data.name == 'folder':
        found = folder.survey(config.data, split)
        if found is not None:
          pairs, wrong = found
          return [_place(split, pair) for pair in pairs], [
            Fault('files', text, _place(split, pair) if pair else None)
            for text, pair in wrong
          ]
      count = datasets.num_examples(config, split)
    except ValueError as error:
      count, texts = 0, texts or [str(error)]
  # A folder has been looked through twice.
  return count, [Fault('files', text) for text in dict.fromkeys(texts)]


def _place(split: str, pair: tuple[pathlib.Path, pathlib.Path]) -> Place:
  return Place(split, str(pair[0]), str(pair[1]))


def load(place: Place, config: Any, info: dataset_info.DatasetInfo) -> Loaded:
  """Reads one example; faults do not raise.

  Args:
    place: where it is.
    config: the experiment, with `data`.
    info: facts about the data set.
  """
  if place.mask:
    return _files(place, info, image_format.of(config.data))
  count = datasets.num_examples(config, place.split)
  return next(prepared(place.split, place.number, count, config, info))


def prepared(
  split: str, part: int, parts: int, config: Any, info: dataset_info.DatasetInfo
) -> Iterator[Loaded]:
  """Yields the examples `part`, `part + parts`, ... of a prepared split."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.threads = 1
  examples = pipeline.examples(
    config, info, split, host_index=part, host_count=parts
  )
  for i, example in enumerate(examples):
    yield Loaded(
      Place(split, example['name'], number=part + i * parts),
      example['image'],
      example['label'],
      pixels=np.bincount(example['label'].ravel(), minlength=256),
    )


def _files(
  place: Place, info: dataset_info.DatasetInfo, pixels: image_format.Pixels
) -> Loaded:
  """Reads an image file and its mask."""
  parts: dict[str, Any] = {}
  faults = []
  try:
    parts['image'] = raw_files.read_pixels(pathlib.Path(place.image), pixels)
  except (ValueError, OSError) as error:
    faults.append(Fault('unreadable', str(error)))
  kind, colors = _header(place.mask)
  try:
    raw = raw_files.read_mask(pathlib.Path(place.mask))
  except (ValueError, OSError) as error:
    wrong = 'jpeg' if kind == 'JPEG' else 'unreadable'
    return Loaded(place, faults=(*faults, Fault(wrong, str(error))), **parts)
  values, counts = _values(raw)
  ids = _train_ids(values, info)
  known = np.array([i is not None for i in ids])
  table = np.array([i or 0 for i in ids], np.uint8)
  parts['label'] = _look_up(raw, values, table)
  parts['pixels'] = np.bincount(table[known], counts[known], 256).astype(
    np.int64
  )
  if not known.all():
    parts['wrong'] = _look_up(raw, values, (~known).astype(np.uint8)) == 1
    faults.append(_outside(place, values[~known], counts[~known], info))
    if values.ndim == 1:
      possible = values[~known & (values < dataset_info.IGNORE)]
      parts['beyond'] = int(possible.max(initial=-1))
  if colors:
    parts['palette'] = tuple(
      (i, (colors[3 * i], colors[3 * i + 1], colors[3 * i + 2]))
      for i in values.tolist()
      if 3 * i + 2 < len(colors)
    )
  if 'image' in parts and raw.shape[:2] != parts['image'].shape[:2]:
    height, width = parts['image'].shape[:2]
    faults.append(
      Fault(
        'mismatch',
        f'{place.mask}: mask of {raw.shape[1]}x{raw.shape[0]} pixels for an '
        f'image of {width}x{height} ({place.image})',
      )
    )
  return Loaded(place, faults=tuple(faults), **parts)


def _header(path: str) -> tuple[str | None, list[int] | None]:
  """Returns a file's format, and the palette of a palette image."""
  try:
    with Image.open(path) as image:
      return image.format, image.getpalette() if image.mode == 'P' else None
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
    return None, None


def _values(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the values of a mask, [n] ids or [n, 3] colours, and counts."""
  if raw.dtype == np.uint8 and raw.ndim == 2:
    counts = np.bincount(raw.ravel(), minlength=256)
    values = np.flatnonzero(counts)
    return values, counts[values]
  values, counts = np.unique(_codes(raw), return_counts=True)
  if raw.ndim == 3:
    values = values[:, None] >> np.array((16, 8, 0)) & 255
  return values, counts


def _codes(raw: np.ndarray) -> np.ndarray:
  """Returns one number a pixel: its id, or its colour as 0xRRGGBB."""
  if raw.ndim == 2:
    return raw.astype(np.int64)
  red, green, blue = (raw[..., i].astype(np.int64) for i in range(3))
  return red << 16 | green << 8 | blue


def _look_up(
  raw: np.ndarray, values: np.ndarray, table: np.ndarray
) -> np.ndarray:
  """Returns table[i], uint8 [h, w], where a mask has values[i]."""
  if raw.dtype == np.uint8 and raw.ndim == 2:
    full = np.zeros(256, np.uint8)
    full[values] = table
    return cv2.LUT(raw, full)
  codes = _codes(values[None])[0] if values.ndim == 2 else values
  return table[np.searchsorted(codes, _codes(raw))]


def _train_ids(
  values: np.ndarray, info: dataset_info.DatasetInfo
) -> list[int | None]:
  """Returns the train id of each value, None where there is none."""
  colored = values.ndim == 2
  convert = raw_files.color_ids if colored else dataset_info.train_ids
  values = values.astype(np.uint8) if colored else values
  try:
    return convert(values[None], info)[0].tolist()
  except ValueError:
    if len(values) == 1:
      return [None]
  return [_train_ids(values[i : i + 1], info)[0] for i in range(len(values))]


def _outside(
  place: Place,
  values: np.ndarray,
  counts: np.ndarray,
  info: dataset_info.DatasetInfo,
) -> Fault:
  """Says which values of a mask are no class, the most frequent first."""
  order = np.argsort(-counts, kind='stable')
  named = ', '.join(
    f'{tuple(value) if isinstance(value, list) else value} ({count} pixels)'
    for value, count in zip(
      values[order[:_NAMED]].tolist(), counts[order].tolist(), strict=False
    )
  )
  more = len(values) - _NAMED
  named += f' and {more} more' if more > 0 else ''
  if values.ndim == 2:
    colors = len(info.palette) + (info.ignore_color is not None)
    return Fault(
      'color',
      f'{place.mask}: colour {named}: not in the colour map of {colors}',
    )
  return Fault(
    'value',
    f'{place.mask}: value {named}: neither one of the {info.num_classes} '
    f'classes nor the ignore label ({info.ignore_label})',
  )
