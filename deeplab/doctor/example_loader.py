"""Loads examples leniently: what cannot be read becomes an issue, no error.

The files of a folder data set are read as they are. The examples of any other
data set are checked while it is prepared, and a preparation that finds an issue
leaves no data behind; here the prepared examples are read.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import NamedTuple

import cv2
import numpy as np

from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.data import image_files
from deeplab.data import image_format
from deeplab.data.builders import folder
from deeplab.data.preparation import errors
from deeplab.data.preparation import raw_files

# (raw id, its color) of some ids of a palette mask.
Palette = tuple[tuple[int, dataset_info.Color], ...]

# The most values that an issue lists.
_MAX_NAMED_VALUES = 5


class ExampleRef(NamedTuple):
  """Names an example, as a pair of files or a position in prepared data.

  Attributes:
    split: name of the split.
    image: the image file, or the name of a prepared example.
    mask: the mask file; '' for a prepared example.
    position: index of a prepared example in its split.
  """

  split: str
  image: str
  mask: str = ''
  position: int = 0


class Issue(NamedTuple):
  """One mistake in one example, or in a split or config as a whole.

  Attributes:
    kind: a key of `findings.KINDS`.
    text: a sentence that begins with the file.
    ref: the example, if it is not among those that are scanned, such as an
      image without a mask.
  """

  kind: str
  text: str
  ref: ExampleRef | None = None


@dataclasses.dataclass(frozen=True)
class LoadedExample:
  """An example, as far as it could be read.

  Attributes:
    ref: the example's name.
    image: uint8 or uint16 [H, W, C]; None if it could not be read.
    label: uint8 [h, w], train ids or IGNORE, 0 where `invalid`; None if it
      could not be read.
    invalid: bool [h, w], pixels whose raw value belongs to no class and is not
      ignored; None if there are none.
    label_counts: int64 [256], number of pixels by train id, IGNORE included,
      `invalid` ones left out; None if the label could not be read.
    palette: ids and colors that a palette mask uses; () for other masks.
    max_unknown_id: the largest raw id that belongs to no class and is less than
      255, so that it could be a class; -1 if there is none.
    issues: what is wrong with the example.
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
  """Lists the examples of a split, and the files that belong to none.

  A data set that is not a folder is prepared if it was not.

  Args:
    dataset: the data set.
    split: name of the split.

  Returns:
    (examples, issues): the examples as references to files, or the number of
    prepared examples; and issues such as missing or superfluous files.
  """
  with errors.collect_errors() as texts:
    try:
      if dataset.info.name == 'folder':
        listed = folder.find_pairs_and_issues(dataset.config, split)
        if listed is not None:
          pairs, wrong = listed
          return [_ref_of_pair(split, pair) for pair in pairs], [
            Issue('files', text, _ref_of_pair(split, pair) if pair else None)
            for text, pair in wrong
          ]
      count = dataset.num_examples(split)
    except ValueError as error:
      count, texts = 0, texts or [str(error)]
  # A folder was searched twice, so its issues may be listed twice.
  return count, [Issue('files', text) for text in dict.fromkeys(texts)]


def _ref_of_pair(
  split: str, pair: tuple[pathlib.Path, pathlib.Path]
) -> ExampleRef:
  return ExampleRef(split, str(pair[0]), str(pair[1]))


def load_example(ref: ExampleRef, dataset: datasets.Dataset) -> LoadedExample:
  """Loads one example; raises no error for one that cannot be read.

  Args:
    ref: the example.
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
  """Yields every `num_shards`-th example of a prepared split.

  Args:
    split: name of the split.
    shard_index: index of the first example, 0..num_shards - 1.
    num_shards: distance between examples.
    dataset: the data set.
  """
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
  issues = []
  image = None
  try:
    image = raw_files.read_pixels(pathlib.Path(ref.image), spec)
  except ValueError as error:
    issues.append(Issue('unreadable', str(error)))
  file_format, colors = _read_header(ref.mask)
  try:
    mask = raw_files.read_mask(pathlib.Path(ref.mask))
  except ValueError as error:
    kind = 'jpeg' if file_format == 'JPEG' else 'unreadable'
    issues.append(Issue(kind, str(error)))
    return LoadedExample(ref, image, issues=tuple(issues))
  values, counts = _count_values(mask)
  train_ids = _find_train_ids(values, info)
  known = np.array([i is not None for i in train_ids])
  table = np.array([i or 0 for i in train_ids], np.uint8)
  invalid, max_unknown_id = None, -1
  if not known.all():
    invalid = _map_values(mask, values, (~known).astype(np.uint8)) == 1
    issues.append(
      _unknown_values_issue(ref, values[~known], counts[~known], info)
    )
    if values.ndim == 1:
      possible = values[~known & (values < dataset_info.IGNORE)]
      max_unknown_id = int(possible.max(initial=-1))
  if image is not None and mask.shape[:2] != image.shape[:2]:
    height, width = image.shape[:2]
    issues.append(
      Issue(
        'mismatch',
        f'{ref.mask}: mask of {mask.shape[1]}x{mask.shape[0]} pixels for an '
        f'image of {width}x{height} ({ref.image})',
      )
    )
  return LoadedExample(
    ref,
    image,
    label=_map_values(mask, values, table),
    invalid=invalid,
    label_counts=np.bincount(table[known], counts[known], 256).astype(np.int64),
    palette=_used_colors(colors, values.tolist()) if colors else (),
    max_unknown_id=max_unknown_id,
    issues=tuple(issues),
  )


def _read_header(path: str) -> tuple[str | None, list[int] | None]:
  """Returns a file's format and a palette image's palette [r, g, b, r, ...]."""
  try:
    with image_files.open_image(path) as image:
      return image.format, image.getpalette() if image.mode == 'P' else None
  except ValueError:
    return None, None


def _used_colors(colors: list[int], ids: list[int]) -> Palette:
  """Returns those colors of a palette [r, g, b, r, ...] that a mask uses."""
  return tuple(
    (i, (colors[3 * i], colors[3 * i + 1], colors[3 * i + 2]))
    for i in ids
    if 3 * i + 2 < len(colors)
  )


def _count_values(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns a mask's distinct values, [n] ids or [n, 3] colors, and counts."""
  if raw.dtype == np.uint8 and raw.ndim == 2:
    counts = np.bincount(raw.ravel(), minlength=256)
    values = np.flatnonzero(counts)
    return values, counts[values]
  values, counts = np.unique(_pack_values(raw), return_counts=True)
  values = values.astype(np.int64)
  if raw.ndim == 3:
    values = values[:, None] >> np.array((16, 8, 0)) & 255
  return values, counts


def _pack_values(raw: np.ndarray) -> np.ndarray:
  """Returns one number per pixel: its id, or its color as 0xRRGGBB.

  They have no more bytes than they need: sorting them takes most of the time.
  """
  if raw.ndim == 2:
    return raw
  red, green, blue = (raw[..., i].astype(np.uint32) for i in range(3))
  return red << 16 | green << 8 | blue


def _map_values(
  raw: np.ndarray, values: np.ndarray, table: np.ndarray
) -> np.ndarray:
  """Returns uint8 [h, w]: table[i] where the mask has values[i]."""
  if raw.dtype == np.uint8 and raw.ndim == 2:
    lookup = np.zeros(256, np.uint8)
    lookup[values] = table
    return cv2.LUT(raw, lookup)
  codes = _pack_values(values[None])[0] if values.ndim == 2 else values
  return table[np.searchsorted(codes, _pack_values(raw))]


def _find_train_ids(
  values: np.ndarray, info: dataset_info.DatasetInfo
) -> list[int | None]:
  """Returns the train id of each raw value; None for one of no class.

  Args:
    values: [n] ids or [n, 3] colors.
    info: the ids and colors of the classes.
  """
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
  """Lists the values of a mask that belong to no class, most frequent first.

  Args:
    ref: the example.
    values: these values, [n] ids or [n, 3] colors.
    counts: int [n], number of pixels of each.
    info: the ids and colors of the classes.
  """
  order = np.argsort(-counts, kind='stable')
  listed = ', '.join(
    f'{tuple(value) if isinstance(value, list) else value} ({count} pixels)'
    for value, count in zip(
      values[order[:_MAX_NAMED_VALUES]].tolist(),
      counts[order].tolist(),
      strict=False,
    )
  )
  more = len(values) - _MAX_NAMED_VALUES
  listed += f' and {more} more' if more > 0 else ''
  if values.ndim == 2:
    colors = len(info.palette) + (info.ignore_color is not None)
    return Issue(
      'color',
      f'{ref.mask}: color {listed}: not in the color map of {colors}',
    )
  return Issue(
    'value',
    f'{ref.mask}: value {listed}: neither one of the {info.num_classes} '
    f'classes nor the ignore label ({info.ignore_label})',
  )
