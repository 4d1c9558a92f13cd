"""labelme JSON: one file for each image.

Polygons, rectangles, circles and masks are rasterized. A shape without area,
such as a line, is an error.
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


def read_label(
  path: pathlib.Path, classes: class_table.ClassTable
) -> np.ndarray:
  """Rasterizes the shapes of a file.

  Args:
    path: the labelme JSON file.
    classes: gives the train id of each label.

  Returns:
    [H, W] uint8 train ids or IGNORE.

  Raises:
    ValueError: the file is damaged, a label is not one of the classes, or a
      shape is malformed.
  """
  content = json_files.read_user_json(path)
  try:
    size = fields.get_size(content, 'imageHeight', 'imageWidth')
    named = [
      (fields.get_text(shape, 'label'), shape)
      for shape in fields.get_entries(content, 'shapes')
    ]
  except ValueError as error:
    raise ValueError(
      f'{path}: damaged, or not a labelme file ({error}); it must have '
      'imageHeight, imageWidth and shapes'
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
  kind = shape.get('shape_type', 'polygon')
  if kind not in ('polygon', 'rectangle', 'circle', 'mask'):
    described = fields.describe(kind).strip("'")
    raise ValueError(
      f'shape {number}: a {described} has no area; draw a polygon or remove it'
    )
  try:
    points = fields.get_points(shape, 'points')
    if kind == 'polygon':
      return [rasterize.flatten_points(points)]
    if kind == 'mask' and points:
      return _decode_mask(fields.get_text(shape, 'mask'), points[0], size)
    if len(points) != 2:
      raise ValueError(f'{len(points)} points in place of 2')
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
