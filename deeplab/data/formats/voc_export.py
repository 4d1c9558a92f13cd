"""Pascal VOC as annotation tools export it: colored masks and a label map.

ROOT/ImageSets/Segmentation/SPLIT.txt lists the images of ROOT/JPEGImages; their
masks are ROOT/SegmentationClass/STEM.png. ROOT/labelmap.txt has one line
`name:red,green,blue:parts:actions` for each class. In RGB and palette masks the
color gives the class; in grey masks the value is the line number, from 0.
VOC's border color is ignored. Without a label map, masks hold class ids.
"""

import functools
import os
import pathlib

import numpy as np

from deeplab.data import dataset_info
from deeplab.data import image_files
from deeplab.data import text_files
from deeplab.data.formats import class_table
from deeplab.data.formats import fields
from deeplab.data.preparation import errors
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import raw_files

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
  read, info = raw_files.read_mask, classes.mask_info
  if (base / 'labelmap.txt').is_file():
    table = read_labelmap(base / 'labelmap.txt')
    read = functools.partial(_read_train_ids, table=table, classes=classes)
    info = classes.drawn_info
  examples = []
  for stem in fields.read_file_names(listing):
    names = [f'{stem}{suffix}' for suffix in dataset_info.IMAGE_SUFFIXES]
    images = [base / 'JPEGImages' / name for name in names]
    image = next(filter(os.path.isfile, images), images[0])
    mask = base / 'SegmentationClass' / f'{stem}.png'
    with errors.catch_and_collect():
      for path in (image, mask):
        if not os.path.isfile(path):
          raise ValueError(
            f'{path}: no such file, but {listing} names it; add the file or '
            'remove the line'
          )
      examples.append(raw_examples.RawExample(image, mask, info, read))
  return examples


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
  )


def _read_train_ids(
  path: pathlib.Path,
  table: dataset_info.DatasetInfo,
  classes: class_table.ClassTable,
) -> np.ndarray:
  """Reads a mask and maps the label map's classes to train ids by name."""
  mask = raw_files.read_mask(path)
  with image_files.open_image(path) as image:
    if image.mode == 'P':
      mask = np.asarray(image.convert('RGB'))
  try:
    if mask.ndim == 3:
      ids = raw_files.colors_to_train_ids(mask, table)
    else:
      ids = dataset_info.raw_to_train_ids(mask, table)
    lut = np.full(256, dataset_info.IGNORE, np.uint8)
    for i in np.unique(ids[ids != dataset_info.IGNORE]).tolist():
      lut[i] = classes.find_id(table.class_names[i])
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return lut[ids]
