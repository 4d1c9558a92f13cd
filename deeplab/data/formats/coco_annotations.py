"""Reads COCO's annotation JSON and rasterizes its segmentations.

Lin et al., Microsoft COCO, ECCV 2014; the format:
https://cocodataset.org/#format-data
"""

from collections.abc import Iterable
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from deeplab.data.formats import fields
from deeplab.data.preparation import rasterize
from deeplab.files import json_files


@dataclasses.dataclass(frozen=True)
class CocoAnnotations:
  """Content of a COCO JSON file.

  Attributes:
    path: the file.
    images: the entries of `images`, sorted by id; each has an `id` and a
      `file_name`.
    annotations: annotations by image id, in the order of the file.
    categories: category names by id.
  """

  path: pathlib.Path
  images: tuple[dict[str, Any], ...]
  annotations: dict[int | str, list[dict[str, Any]]]
  categories: dict[int | str, str]


def read_annotations(path: pathlib.Path) -> CocoAnnotations:
  """Reads a COCO JSON file.

  Raises:
    ValueError: the file is damaged or not a COCO file.
  """
  content = json_files.read_user_json(path)
  try:
    annotations: dict[int | str, list[dict[str, Any]]] = {}
    for annotation in fields.get_entries(content, 'annotations'):
      image_id = fields.get_id(annotation, 'image_id')
      annotations.setdefault(image_id, []).append(annotation)
    images = fields.get_entries(content, 'images')
    for entry in images:
      fields.check_characters(fields.get_text(entry, 'file_name'))
    return CocoAnnotations(
      path=path,
      images=tuple(sorted(images, key=_sort_key)),
      annotations=annotations,
      categories={
        fields.get_id(entry, 'id'): fields.get_text(entry, 'name')
        for entry in fields.get_entries(content, 'categories')
      },
    )
  except ValueError as error:
    raise ValueError(
      f'{path}: damaged, or not a COCO file ({error}); it must have images, '
      'annotations and categories'
    ) from error


def _sort_key(entry: dict[str, Any]) -> tuple[bool, int | str]:
  """Returns the id of an entry; numbers come before texts."""
  image_id = fields.get_id(entry, 'id')
  return isinstance(image_id, str), image_id


def require_image_file(
  folder: pathlib.Path, entry: dict[str, Any], annotations: pathlib.Path
) -> pathlib.Path:
  """Returns the file of an image.

  Args:
    folder: holds the images.
    entry: the image's entry in the JSON file; reads `file_name`.
    annotations: the JSON file, for the message.

  Raises:
    ValueError: the file does not exist, or its name leads out of the folder.
  """
  try:
    fields.check_file_name(entry['file_name'])
  except ValueError as error:
    raise ValueError(f'{annotations}: {error}; correct its entry') from error
  path = folder / entry['file_name']
  if not os.path.isfile(path):
    raise ValueError(
      f'{path}: no such file, but {annotations} names it; add the image or '
      'remove its entry'
    )
  return path


def rasterize_annotations(
  annotations: Iterable[dict[str, Any]], size: tuple[int, int]
) -> Iterable[tuple[int | str, np.ndarray]]:
  """Yields the category id and the mask [H, W] bool of each annotation.

  Args:
    annotations: annotations of one image.
    size: (H, W) of the image.

  Raises:
    ValueError: a segmentation is malformed; the message begins with the id of
      its annotation.
  """
  for annotation in annotations:
    try:
      mask = rasterize.segmentation_to_mask(
        annotation.get('segmentation'), size
      )
    except ValueError as error:
      raise ValueError(
        f'annotation {fields.describe(annotation.get("id"))} of image '
        f'{annotation.get("image_id")}: {error}; correct or remove it'
      ) from error
    yield fields.get_id(annotation, 'category_id'), mask
