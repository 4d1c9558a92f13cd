"""labelme JSON: one file an image.

Polygons, rectangles, circles and masks are drawn; what encloses nothing, such
as a line, is an error.
"""

import base64
import io
import json
import math
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from deeplab.data.formats import classes as classes_lib
from deeplab.data.preparation import rasterize


def read_label(
  path: pathlib.Path, classes: classes_lib.ClassTable
) -> np.ndarray:
  """Draws the shapes of a file.

  Returns:
    [H, W] uint8 train ids, or IGNORE.

  Raises:
    ValueError: a damaged file, an unknown category, or a broken shape.
  """
  try:
    content = json.loads(path.read_text('utf-8'))
    size = int(content['imageHeight']), int(content['imageWidth'])
    named = [(shape['label'], shape) for shape in content['shapes']]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: damaged, or no labelme file ({error!r}): it must hold '
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
  """Returns a shape in COCO's form, or as a mask."""
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
    f'shape {number}: a {kind} encloses nothing; draw a polygon or remove it'
  )


def _decode_mask(
  data: str, corner: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
  """Decodes a mask, which is a PNG of its bounding box."""
  with Image.open(io.BytesIO(base64.b64decode(data))) as image:
    part = np.asarray(image) > 0
  left, top = round(corner[0]), round(corner[1])
  whole = np.zeros(size, bool)
  place = whole[top : top + part.shape[0], left : left + part.shape[1]]
  if part.ndim != 2 or min(left, top) < 0 or place.shape != part.shape:
    raise ValueError('the mask does not lie inside the image')
  place[...] = part
  return whole
