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

import numpy as np

from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.data import image_files
from deeplab.data import image_format
from deeplab.data.builders import folder
from deeplab.data.preparation import errors
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import raw_files
from deeplab.data.preparation import records

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
    image: uint8 or uint16 [H, W, C], upright; None if it could not be read.
    label: uint8 [h, w], train ids or IGNORE, 0 where `invalid`; None if it
      could not be read.
    invalid: bool [h, w], pixels whose raw value belongs to no class and is not
      ignored; None if there are none.
    label_counts: int64 [256], number of pixels by train id, IGNORE included,
      `invalid` ones left out; None if the label could not be read.
    raw_ids: ids that a mask holds; () for a mask that is read by color, and for
      one of more than 256 values.
    by_color: the colors of the classes tell what the mask means; None if the
      mask could not be read.
    painted_on_stored: the mask has the size of the stored pixels of an image
      that its orientation turns, and was turned with it.
    palette: ids and colors that a palette mask uses; () for masks that are read
      by color and for other masks.
    max_unknown_id: the largest raw id that belongs to no class and is less than
      255, so that it could be a class; -1 if there is none.
    orientation: EXIF orientation of the image file, 1 (upright) to 8.
    issues: what is wrong with the example.
  """

  ref: ExampleRef
  image: np.ndarray | None = None
  label: np.ndarray | None = None
  invalid: np.ndarray | None = None
  label_counts: np.ndarray | None = None
  raw_ids: tuple[int, ...] = ()
  by_color: bool | None = None
  painted_on_stored: bool = False
  palette: Palette = ()
  max_unknown_id: int = -1
  orientation: int = 1
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
  with errors.collect_errors() as texts, errors.collect_notes() as notes:
    try:
      if dataset.info.name == 'folder':
        listed = folder.find_pairs_and_issues(dataset.config, split)
        if listed is not None:
          pairs, wrong = listed
          return [_ref_of_pair(split, pair) for pair in pairs], [
            *(
              Issue('files', text, _ref_of_pair(split, pair) if pair else None)
              for text, pair in wrong
            ),
            *(Issue('noted', text) for text in notes),
          ]
      count = dataset.num_examples(split)
      if dataset.left_out(split):
        errors.note(dataset.left_out(split))
      if dataset.info.name == 'folder':
        _note_orientations(folder.find_examples(dataset.config, split), split)
    except ValueError as error:
      count, texts = 0, texts or [str(error)]
  # A folder was searched twice, so its issues may be listed twice.
  return count, [
    *(Issue('files', text) for text in dict.fromkeys(texts)),
    *(Issue('noted', text) for text in notes),
  ]


def _note_orientations(
  examples: Sequence[raw_examples.RawExample], split: str
) -> None:
  """Notes the images with an EXIF orientation, whose labels are drawn."""
  turned = [
    x.image for x in examples if image_files.read_orientation(x.image) != 1
  ]
  if turned:
    errors.note(
      f'{split}: {len(turned)} of {len(examples)} images have an EXIF '
      f'orientation, such as {turned[0]}; they are turned upright, as the tool '
      'showed them to the annotator'
    )


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
  image, orientation = None, 1
  try:
    image = raw_files.read_pixels(pathlib.Path(ref.image), spec)
    orientation = image_files.read_orientation(pathlib.Path(ref.image))
  except ValueError as error:
    issues.append(Issue('unreadable', str(error)))
  try:
    mask = mask_files.read_stored_mask(pathlib.Path(ref.mask))
    found = mask_files.find_train_ids(mask, info)
  except mask_files.LossyMaskError as error:
    issues.append(Issue('lossy', str(error)))
    return LoadedExample(ref, image, issues=tuple(issues))
  except ValueError as error:
    issues.append(Issue('unreadable', str(error)))
    return LoadedExample(ref, image, issues=tuple(issues))
  known = np.array([i is not None for i in found.train_ids])
  table = np.array([i or 0 for i in found.train_ids], np.uint8)
  raw = found.mask.values
  if image is not None:
    raw = records.turn_like_image(raw, pathlib.Path(ref.image), image.shape[:2])
  label = mask_files.map_values(raw, found.values, table)
  invalid, max_unknown_id = None, -1
  if not known.all():
    unknown = (~known).astype(np.uint8)
    invalid = mask_files.map_values(raw, found.values, unknown) == 1
    issues.append(_unknown_values_issue(ref, found, info))
    if not found.by_color:
      possible = found.values[~known & (found.values < dataset_info.IGNORE)]
      max_unknown_id = int(possible.max(initial=-1))
  if image is not None and label.shape != image.shape[:2]:
    height, width = image.shape[:2]
    issues.append(
      Issue(
        'mismatch',
        f'{ref.mask}: mask of {label.shape[1]}x{label.shape[0]} pixels for an '
        f'image of {width}x{height} ({ref.image})',
      )
    )
  return LoadedExample(
    ref,
    image,
    label,
    invalid=invalid,
    label_counts=np.bincount(table[known], found.counts[known], 256).astype(
      np.int64
    ),
    raw_ids=_raw_ids(found),
    by_color=found.by_color,
    painted_on_stored=mask.values.shape[:2] != label.shape,
    palette=_used_colors(found),
    max_unknown_id=max_unknown_id,
    orientation=orientation,
    issues=tuple(issues),
  )


def _raw_ids(found: mask_files.MaskValues) -> tuple[int, ...]:
  """Returns the ids of a mask that holds ids, at most 256, else ()."""
  if found.by_color or len(found.values) > 256:
    return ()
  return tuple(found.values.tolist())


def _used_colors(found: mask_files.MaskValues) -> Palette:
  """Returns the colors of the entries whose ids a palette mask uses."""
  palette = found.mask.palette
  if palette is None or found.by_color:
    return ()
  return tuple((i, tuple(palette[i].tolist())) for i in found.values.tolist())


def _unknown_values_issue(
  ref: ExampleRef,
  found: mask_files.MaskValues,
  info: dataset_info.DatasetInfo,
) -> Issue:
  """Lists the values of a mask that belong to no class, most frequent first.

  Args:
    ref: the example.
    found: its values.
    info: the ids and colors of the classes.
  """
  unknown = [i for i, x in enumerate(found.train_ids) if x is None]
  unknown.sort(key=lambda i: -found.counts[i])
  listed = ', '.join(
    f'{found.describe_value(i)} ({found.counts[i]} pixels)'
    for i in unknown[:_MAX_NAMED_VALUES]
  )
  more = len(unknown) - _MAX_NAMED_VALUES
  listed += f' and {more} more' if more > 0 else ''
  if found.by_color:
    colors = len(info.palette) + (info.ignore_color is not None)
    text = f'{ref.mask}: color {listed}: not in the color map of {colors}'
    if found.values.ndim == 1:
      text += f'; {mask_files.CONTRADICTION_REMEDY}'
    return Issue('color', text)
  return Issue(
    'value',
    f'{ref.mask}: value {listed}: neither one of the {info.num_classes} '
    f'classes nor {dataset_info.describe_ignored_ids(info)}',
  )
