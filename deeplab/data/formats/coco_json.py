"""COCO JSON: polygons and run lengths of many images in one file.

The file of a split is ROOT/SPLIT.json, ROOT/SPLIT/_annotations.coco.json or
ROOT/annotations/instances_SPLIT.json. Images are searched in the folder of that
file, then in ROOT/SPLIT, ROOT/SPLIT/images, ROOT/images/SPLIT, ROOT/images and
ROOT.
"""

import functools
import pathlib
from typing import Any

import numpy as np

from deeplab.data.formats import class_table
from deeplab.data.formats import coco_annotations
from deeplab.data.formats import fields
from deeplab.data.preparation import raw_examples


def find_examples(
  base: pathlib.Path, split: str, classes: class_table.ClassTable
) -> list[raw_examples.RawExample] | None:
  """Returns the examples of a split, or None if it has no COCO JSON file.

  Raises:
    ValueError: the file is damaged, or an image that it names is missing.
  """
  files = (
    base / f'{split}.json',
    base / split / '_annotations.coco.json',
    base / 'annotations' / f'instances_{split}.json',
  )
  path = next((path for path in files if path.is_file()), None)
  if path is None:
    return None
  index = coco_annotations.read_annotations(path)
  folders = (
    *(path.parent, base / split, base / split / 'images'),
    *(base / 'images' / split, base / 'images', base),
  )
  return class_table.make_raw_examples(
    path,
    folders,
    classes,
    (
      (
        entry['file_name'],
        functools.partial(
          _draw_label,
          entry=entry,
          annotations=index.annotations.get(fields.get_id(entry, 'id'), []),
          names=index.categories,
          classes=classes,
        ),
      )
      for entry in index.images
    ),
  )


def _draw_label(
  path: pathlib.Path,
  entry: dict[str, Any],
  annotations: list[dict[str, Any]],
  names: dict[int | str, str],
  classes: class_table.ClassTable,
) -> np.ndarray:
  """Rasterizes the annotations of one image, [H, W] uint8 train ids."""
  try:
    size = fields.get_size(entry)
  except ValueError as error:
    raise ValueError(
      f'{path}: image {entry["file_name"]}: {error}; correct its entry'
    ) from error
  shapes = []
  for a in annotations:
    description = (
      f'annotation {fields.describe(a.get("id"))} of {entry["file_name"]}'
    )
    try:
      category = fields.get_id(a, 'category_id')
    except ValueError as error:
      raise ValueError(f'{path}: {description}: {error}') from error
    name = names.get(category, str(category))
    shapes.append((description, name, a.get('segmentation')))
  try:
    return classes.draw_shapes(size, shapes)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
