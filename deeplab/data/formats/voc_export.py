"""Pascal VOC as annotation tools export it: colored masks and a label map.

ROOT/ImageSets/Segmentation/SPLIT.txt lists the images of ROOT/JPEGImages; their
masks are ROOT/SegmentationClass/STEM.png. ROOT/labelmap.txt has one line
`name:red,green,blue:parts:actions` for each class. In RGB and palette masks the
color gives the class; in grey masks the value is the line number, from 0.
VOC's border color is ignored. Without a label map, masks hold class ids.
"""

from collections.abc import Mapping
import functools
import pathlib

import numpy as np

from deeplab import text
from deeplab.data import dataset_info
from deeplab.data import image_format
from deeplab.data.formats import class_table
from deeplab.data.formats import fields
from deeplab.data.formats import named_files
from deeplab.data.preparation import errors
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_examples
from deeplab.files import text_files

_VOID_COLOR = (224, 224, 192)


def find_examples(
  base: pathlib.Path, split: str, classes: class_table.ClassTable
) -> list[raw_examples.RawExample] | None:
  """Returns the examples of a split, or None if it has no list file.

  Raises:
    ValueError: a listed file is missing, or the label map is malformed.
  """
  listing = base / 'ImageSets' / 'Segmentation' / f'{split}.txt'
  if not listing.is_file():
    return None
  read = functools.partial(mask_files.read_train_ids, info=classes.mask_info)
  if (base / 'labelmap.txt').is_file():
    table = read_labelmap(base / 'labelmap.txt')
    read = functools.partial(_read_train_ids, table=table, classes=classes)
  examples = []
  images, masks = (
    _index_stems(base / name) for name in ('JPEGImages', 'SegmentationClass')
  )
  unlabelled = []
  for line in text_files.read_text(listing).splitlines():
    if not line.strip():
      continue
    stem = _listed_stem(line, images)
    with errors.catch_and_collect():
      if stem not in images:
        _check_line(listing, stem)
        raise ValueError(
          f'{base / "JPEGImages" / stem}.jpg: no such file, but {listing} '
          'names it; add the file or remove the line'
        )
      image, mask = images[stem], masks.get(stem)
      if mask is None:
        unlabelled.append(stem)
        continue
      examples.append(
        raw_examples.RawExample(image, mask, classes.drawn_info, read)
      )
  if unlabelled:
    errors.note(
      f'{listing}: {text.plural(len(unlabelled), "image")} without a mask in '
      f'{base / "SegmentationClass"} left out, such as {unlabelled[0]}'
    )
  return examples


def _check_line(listing: pathlib.Path, stem: str) -> None:
  try:
    fields.check_file_name(stem)
  except ValueError as error:
    raise ValueError(f'{listing}: {error}; correct its line') from error


def _index_stems(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the images of a folder by their path below it, without suffix."""
  files: dict[str, pathlib.Path] = {}
  for path in named_files.walk(folder):
    if path.suffix.lower() in image_format.IMAGE_AND_ARRAY_SUFFIXES:
      key = path.relative_to(folder).with_suffix('').as_posix()
      files.setdefault(named_files.normalize(key), path)
  return files


def _listed_stem(line: str, images: Mapping[str, pathlib.Path]) -> str:
  """Returns the stem that a line of a list names.

  It may have a suffix, backslashes, and a column that says whether a class is
  in the image.
  """
  name = named_files.normalize(line.strip().replace('\\', '/'))
  for stem in (name, pathlib.PurePosixPath(name).with_suffix('').as_posix()):
    if stem in images:
      return stem
  first, _, last = name.rpartition(' ')
  return first.strip() if last in ('-1', '0', '1') and first else name


def read_labelmap(path: pathlib.Path) -> dataset_info.DatasetInfo:
  """Reads a label map; the ids of its classes are its line numbers.

  Raises:
    ValueError: a line is malformed.
  """
  names, colors = [], []
  for number, line in enumerate(text_files.read_text(path).splitlines(), 1):
    if not line.strip() or line.startswith('#'):
      continue
    name, *parts = line.split(':')
    try:
      colors.append(dataset_info.check_color(''.join(parts[:1]).split(',')))
    except ValueError as error:
      raise ValueError(
        f'{path}: line {number} is not `name:red,green,blue::` ({error}): '
        f'{line[:80]!r}'
      ) from error
    names.append(name)
  return dataset_info.DatasetInfo(
    name=str(path),
    class_names=tuple(names),
    palette=tuple(colors),
    ignore_label=dataset_info.IGNORE,
    ignore_color=None if _VOID_COLOR in colors else _VOID_COLOR,
    has_user_colors=True,
  )


def _read_train_ids(
  path: pathlib.Path,
  table: dataset_info.DatasetInfo,
  classes: class_table.ClassTable,
) -> np.ndarray:
  """Reads a mask and maps the label map's classes to train ids by name."""
  mask = mask_files.read_stored_mask(path)
  try:
    info = classes.mask_info
    by_id = mask.values.ndim == 2 and info.id_mapping is not None
    if by_id and not mask_files.find_train_ids(mask, table).by_color:
      return mask_files.stored_to_train_ids(mask, info)
    ids = mask_files.stored_to_train_ids(mask, table)
    lut = np.full(256, dataset_info.IGNORE, np.uint8)
    for i in np.unique(ids[ids != dataset_info.IGNORE]).tolist():
      lut[i] = classes.find_id(table.class_names[i])
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return lut[ids]
