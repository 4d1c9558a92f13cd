"""Reads COCO's annotation JSON and rasterizes its segmentations.

Lin et al., Microsoft COCO, ECCV 2014; the format:
https://cocodataset.org/#format-data
"""

from collections.abc import Iterable
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from deeplab.data.preparation import rasterize


@dataclasses.dataclass(frozen=True)
class CocoAnnotations:
  """Content of a COCO JSON file.

  Attributes:
    path: the file.
    images: the entries of `images`, sorted by id.
    annotations: annotations by image id, in the order of the file.
    categories: category names by id.
  """

  path: pathlib.Path
  images: tuple[dict[str, Any], ...]
  annotations: dict[int, list[dict[str, Any]]]
  categories: dict[int, str]


def read_annotations(path: pathlib.Path) -> CocoAnnotations:
  """Reads a COCO JSON file.

  Raises:
    ValueError: the file is damaged or not a COCO file.
  """
  try:
    content = json.loads(path.read_text('utf-8'))
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in content['annotations']:
      annotations.setdefault(annotation['image_id'], []).append(annotation)
    return CocoAnnotations(
      path=path,
      images=tuple(sorted(content['images'], key=lambda entry: entry['id'])),
      annotations=annotations,
      categories={c['id']: c['name'] for c in content['categories']},
    )
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: damaged, or not a COCO file ({error!r}); it must have images, '
      'annotations and categories'
    ) from error


def require_image_file(
  folder: pathlib.Path, entry: dict[str, Any], annotations: pathlib.Path
) -> pathlib.Path:
  """Returns the file of an image.

  Args:
    folder: holds the images.
    entry: the image's entry in the JSON file; reads `file_name`.
    annotations: the JSON file, for the message.

  Raises:
    ValueError: the file does not exist.
  """
  path = folder / entry['file_name']
  if not path.is_file():
    raise ValueError(
      f'{path}: no such file, but {annotations} names it; add the image or '
      'remove its entry'
    )
  return path


def rasterize_annotations(
  annotations: Iterable[dict[str, Any]], size: tuple[int, int]
) -> Iterable[tuple[int, np.ndarray]]:
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
        f'annotation {annotation.get("id")} of image '
        f'{annotation.get("image_id")}: {error}; correct or remove it'
      ) from error
    yield annotation['category_id'], mask
