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
from deeplab.data.builders import folder
from deeplab.data.preparation import errors
from deeplab.data.preparation import raw_files

Palette = tuple[tuple[int, dataset_info.Color], ...]

# Values that a sentence names, at most.
_MAX_NAMED_VALUES = 5


class ExampleRef(NamedTuple):
  """Where an example is.

  Attributes:
    split: its split.
    image: the image file, or the name of a prepared example.
    mask: the mask file; '' for a prepared example.
    position: a prepared example's place in its split.
  """

  split: str
  image: str
  mask: str = ''
  position: int = 0


class Issue(NamedTuple):
  """What is wrong with an example.

  Attributes:
    kind: one of `findings.KINDS`.
    text: a sentence that begins with the file.
    ref: the example, where it is none of those that are scanned.
  """

  kind: str
  text: str
  ref: ExampleRef | None = None


@dataclasses.dataclass(frozen=True)
class LoadedExample:
  """An example, as far as it can be read.

  Attributes:
    ref: where it is.
    image: uint8 or uint16 [H, W, C].
    label: uint8 [h, w], train ids or IGNORE, 0 where `invalid`.
    invalid: bool [h, w], pixels whose value is no class and not ignored; None
      for none.
    label_counts: int64 [256], pixels by train id, IGNORE included, without
      `invalid`.
    palette: (raw id, its colour) of the ids that a palette mask has.
    max_unknown_id: the largest id that is no class, though it could be; -1 for
      none.
    issues: what is wrong.
  """

  ref: ExampleRef
  image: np.ndarray | None = None
  label: np.ndarray | None = None
  invalid: np.ndarray | None = None
  label_counts: np.ndarray | None = None
  palette: Palette = ()
  max_unknown_id: int = -1
  issues: tuple[Issue, ...] = ()


def list_examples(
  dataset: datasets.Dataset, split: str
) -> tuple[Sequence[ExampleRef] | int, list[Issue]]:
  """Returns what there is of a split, and what is missing or in the way.

  Args:
    dataset: the data set.
    split: name of the split.

  Returns:
    Places of files, or the number of prepared examples; and faults.
  """
  with errors.collect_errors() as texts:
    try:
      if dataset.info.name == 'folder':
        found = folder.find_pairs_and_issues(dataset.config, split)
        if found is not None:
          pairs, wrong = found
          return [_ref_of_pair(split, pair) for pair in pairs], [
            Issue('files', text, _ref_of_pair(split, pair) if pair else None)
            for text, pair in wrong
          ]
      count = dataset.num_examples(split)
    except ValueError as error:
      count, texts = 0, texts or [str(error)]
  # A folder has been looked through twice.
  return count, [Issue('files', text) for text in dict.fromkeys(texts)]


def _ref_of_pair(
  split: str, pair: tuple[pathlib.Path, pathlib.Path]
) -> ExampleRef:
  return ExampleRef(split, str(pair[0]), str(pair[1]))


def load_example(ref: ExampleRef, dataset: datasets.Dataset) -> LoadedExample:
  """Reads one example; faults do not raise.

  Args:
    ref: where it is.
    dataset: its data set.
  """
  if ref.mask:
    return _load_files(ref, dataset.info, dataset.spec)
  count = dataset.num_examples(ref.split)
  return next(load_prepared_shard(ref.split, ref.position, count, dataset))


def load_prepared_shard(
  split: str,
  shard_index: int,
  num_shards: int,
  dataset: datasets.Dataset,
) -> Iterator[LoadedExample]:
  """Yields every `num_shards`-th example of a prepared split."""
  examples = dataset.examples(
    split, host_index=shard_index, host_count=num_shards, threads=1
  )
  for i, example in enumerate(examples):
    yield LoadedExample(
      ExampleRef(split, example['name'], position=shard_index + i * num_shards),
      example['image'],
      example['label'],
      label_counts=np.bincount(example['label'].ravel(), minlength=256),
    )


def _load_files(
  ref: ExampleRef, info: dataset_info.DatasetInfo, spec: image_format.ImageSpec
) -> LoadedExample:
  """Reads an image file and its mask."""
  parts: dict[str, Any] = {}
  faults = []
  try:
    parts['image'] = raw_files.read_pixels(pathlib.Path(ref.image), spec)
  except (ValueError, OSError) as error:
    faults.append(Issue('unreadable', str(error)))
  kind, colors = _read_header(ref.mask)
  try:
    raw = raw_files.read_mask(pathlib.Path(ref.mask))
  except (ValueError, OSError) as error:
    wrong = 'jpeg' if kind == 'JPEG' else 'unreadable'
    return LoadedExample(
      ref, issues=(*faults, Issue(wrong, str(error))), **parts
    )
  values, counts = _count_values(raw)
  ids = _find_train_ids(values, info)
  known = np.array([i is not None for i in ids])
  table = np.array([i or 0 for i in ids], np.uint8)
  parts['label'] = _map_values(raw, values, table)
  parts['label_counts'] = np.bincount(table[known], counts[known], 256).astype(
    np.int64
  )
  if not known.all():
    parts['invalid'] = _map_values(raw, values, (~known).astype(np.uint8)) == 1
    faults.append(
      _unknown_values_issue(ref, values[~known], counts[~known], info)
    )
    if values.ndim == 1:
      possible = values[~known & (values < dataset_info.IGNORE)]
      parts['max_unknown_id'] = int(possible.max(initial=-1))
  if colors:
    parts['palette'] = tuple(
      (i, (colors[3 * i], colors[3 * i + 1], colors[3 * i + 2]))
      for i in values.tolist()
      if 3 * i + 2 < len(colors)
    )
  if 'image' in parts and raw.shape[:2] != parts['image'].shape[:2]:
    height, width = parts['image'].shape[:2]
    faults.append(
      Issue(
        'mismatch',
        f'{ref.mask}: mask of {raw.shape[1]}x{raw.shape[0]} pixels for an '
        f'image of {width}x{height} ({ref.image})',
      )
    )
  return LoadedExample(ref, issues=tuple(faults), **parts)


def _read_header(path: str) -> tuple[str | None, list[int] | None]:
  """Returns a file's format, and the palette of a palette image."""
  try:
    with Image.open(path) as image:
      return image.format, image.getpalette() if image.mode == 'P' else None
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
    return None, None


def _count_values(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the values of a mask, [n] ids or [n, 3] colours, and counts."""
  if raw.dtype == np.uint8 and raw.ndim == 2:
    counts = np.bincount(raw.ravel(), minlength=256)
    values = np.flatnonzero(counts)
    return values, counts[values]
  values, counts = np.unique(_pack_values(raw), return_counts=True)
  if raw.ndim == 3:
    values = values[:, None] >> np.array((16, 8, 0)) & 255
  return values, counts


def _pack_values(raw: np.ndarray) -> np.ndarray:
  """Returns one number a pixel: its id, or its colour as 0xRRGGBB."""
  if raw.ndim == 2:
    return raw.astype(np.int64)
  red, green, blue = (raw[..., i].astype(np.int64) for i in range(3))
  return red << 16 | green << 8 | blue


def _map_values(
  raw: np.ndarray, values: np.ndarray, table: np.ndarray
) -> np.ndarray:
  """Returns table[i], uint8 [h, w], where a mask has values[i]."""
  if raw.dtype == np.uint8 and raw.ndim == 2:
    full = np.zeros(256, np.uint8)
    full[values] = table
    return cv2.LUT(raw, full)
  codes = _pack_values(values[None])[0] if values.ndim == 2 else values
  return table[np.searchsorted(codes, _pack_values(raw))]


def _find_train_ids(
  values: np.ndarray, info: dataset_info.DatasetInfo
) -> list[int | None]:
  """Returns the train id of each value, None where there is none."""
  colored = values.ndim == 2
  convert = (
    raw_files.colors_to_train_ids if colored else dataset_info.raw_to_train_ids
  )
  values = values.astype(np.uint8) if colored else values
  try:
    return convert(values[None], info)[0].tolist()
  except ValueError:
    if len(values) == 1:
      return [None]
  return [
    _find_train_ids(values[i : i + 1], info)[0] for i in range(len(values))
  ]


def _unknown_values_issue(
  ref: ExampleRef,
  values: np.ndarray,
  counts: np.ndarray,
  info: dataset_info.DatasetInfo,
) -> Issue:
  """Says which values of a mask are no class, the most frequent first."""
  order = np.argsort(-counts, kind='stable')
  named = ', '.join(
    f'{tuple(value) if isinstance(value, list) else value} ({count} pixels)'
    for value, count in zip(
      values[order[:_MAX_NAMED_VALUES]].tolist(),
      counts[order].tolist(),
      strict=False,
    )
  )
  more = len(values) - _MAX_NAMED_VALUES
  named += f' and {more} more' if more > 0 else ''
  if values.ndim == 2:
    colors = len(info.palette) + (info.ignore_color is not None)
    return Issue(
      'color',
      f'{ref.mask}: colour {named}: not in the colour map of {colors}',
    )
  return Issue(
    'value',
    f'{ref.mask}: value {named}: neither one of the {info.num_classes} '
    f'classes nor the ignore label ({info.ignore_label})',
  )
