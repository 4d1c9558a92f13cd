"""labelme JSON: one file for each image.

Circles, masks, rectangles of two corners and any closed shape of three points
and more, such as a rotated rectangle, are rasterized. A line or a point, which
has no area, is an error; a shape without points is left out and counted.
"""

import base64
import math
import pathlib
from typing import Any

import numpy as np

from deeplab.data import image_files
from deeplab.data.formats import class_table
from deeplab.data.formats import fields
from deeplab.data.preparation import rasterize
from deeplab.files import json_files

# Shapes of labelme and of programs that write its format, which have no area.
_OPEN_SHAPES = ('line', 'linestrip', 'point', 'points', 'polyline')


def read_label(
  path: pathlib.Path, classes: class_table.ClassTable, image: pathlib.Path
) -> np.ndarray:
  """Rasterizes the shapes of a file.

  Args:
    path: the labelme JSON file.
    classes: gives the train id of each label.
    image: its image, whose size counts where the file has none.

  Returns:
    [H, W] uint8 train ids or IGNORE.

  Raises:
    ValueError: the file is damaged, a label is not one of the classes, or a
      shape is malformed.
  """
  content = json_files.read_user_json(path)
  try:
    if isinstance(content, dict) and None in (
      content.get('imageHeight'),
      content.get('imageWidth'),
    ):
      size = image_files.read_size(image)
    else:
      size = fields.get_size(content, 'imageHeight', 'imageWidth')
    named = [
      (fields.get_text(shape, 'label'), shape)
      for shape in fields.get_entries(content, 'shapes')
    ]
  except ValueError as error:
    raise ValueError(
      f'{path}: damaged, or not a labelme file ({error}); it must have shapes'
    ) from error
  try:
    return classes.draw_shapes(
      size,
      (
        (f'shape {i} ({name})', name, _to_segmentation(i, shape, size))
        for i, (name, shape) in enumerate(named, 1)
      ),
    )
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _to_segmentation(
  number: int, shape: dict[str, Any], size: tuple[int, int]
) -> Any:
  """Converts a shape to COCO's polygons, or to a mask [H, W] bool."""
  kind = shape.get('shape_type')
  kind = 'polygon' if kind is None else kind
  if not isinstance(kind, str) or kind in _OPEN_SHAPES:
    described = fields.describe(kind).strip("'")
    raise ValueError(
      f'shape {number}: a {described} has no area; draw a polygon or remove it'
    )
  try:
    if not shape.get('points'):
      return []
    points = fields.get_points(shape, 'points')
    if kind == 'mask':
      return _decode_mask(fields.get_text(shape, 'mask'), points[0], size)
    if kind == 'circle' and len(points) != 2:
      raise ValueError(f'{len(points)} points in place of 2')
    if kind not in ('rectangle', 'circle') or len(points) != 2:
      return [rasterize.flatten_points(points)]
    (left, top), (right, bottom) = points
    if kind == 'rectangle':
      return [[left, top, right, top, right, bottom, left, bottom]]
    radius = math.dist(*points)
    return [rasterize.ellipse_polygon(left, top, radius, radius)]
  except (OverflowError, ValueError) as error:
    raise ValueError(f'shape {number}: broken {kind}: {error}') from error


def _decode_mask(
  data: str, corner: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
  """Decodes the base64 PNG of a bounding box to a mask [H, W] bool."""
  left, top = round(corner[0]), round(corner[1])
  with image_files.open_image('the mask', base64.b64decode(data)) as image:
    box = np.asarray(image) > 0
  mask = np.zeros(size, bool)
  target = mask[top : top + box.shape[0], left : left + box.shape[1]]
  if box.ndim != 2 or min(left, top) < 0 or target.shape != box.shape:
    raise ValueError('the mask does not lie inside the image')
  target[...] = box
  return mask
