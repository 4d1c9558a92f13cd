"""labelme JSON: one file for each image.

Polygons, rectangles, circles and masks are rasterized. A shape without area,
such as a line, is an error.
"""

import base64
import io
import json
import math
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from deeplab.data.formats import class_table
from deeplab.data.preparation import rasterize


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
  try:
    content = json.loads(path.read_text('utf-8'))
    size = int(content['imageHeight']), int(content['imageWidth'])
    named = [(shape['label'], shape) for shape in content['shapes']]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: damaged, or not a labelme file ({error!r}); it must have '
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
  try:
    points = [(float(x), float(y)) for x, y in shape['points']]
    if kind == 'polygon':
      return [rasterize.flatten_points(points)]
    if kind == 'rectangle':
      (left, top), (right, bottom) = points
      return [[left, top, right, top, right, bottom, left, bottom]]
    if kind == 'circle':
      center, edge = points
      radius = math.dist(center, edge)
      return [rasterize.ellipse_polygon(*center, radius, radius)]
    if kind == 'mask':
      return _decode_mask(shape['mask'], points[0], size)
  except (KeyError, OSError, TypeError, ValueError) as error:
    raise ValueError(f'shape {number}: broken {kind}: {error!r}') from error
  raise ValueError(
    f'shape {number}: a {kind} has no area; draw a polygon or remove it'
  )


def _decode_mask(
  data: str, corner: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
  """Decodes the base64 PNG of a bounding box to a mask [H, W] bool."""
  with Image.open(io.BytesIO(base64.b64decode(data))) as image:
    box = np.asarray(image) > 0
  left, top = round(corner[0]), round(corner[1])
  mask = np.zeros(size, bool)
  target = mask[top : top + box.shape[0], left : left + box.shape[1]]
  if box.ndim != 2 or min(left, top) < 0 or target.shape != box.shape:
    raise ValueError('the mask does not lie inside the image')
  target[...] = box
  return mask
