"""Rasterizes polygons and run-length encodings (RLE) as pycocotools does.

A segmentation has COCO's form: a list of polygons, each a flat list x0, y0, x1,
y1, ..., or a dict of run lengths with `size` and `counts`, where `counts` is a
list of numbers or COCO's compressed string. pycocotools decides which pixels a
polygon covers, so labels equal those that others train on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def segmentation_to_mask(
  segmentation: Any, size: tuple[int, int]
) -> np.ndarray:
  """Rasterizes one segmentation.

  Args:
    segmentation: polygons, whose union is taken, or run lengths.
    size: (H, W) of the image.

  Returns:
    [H, W] bool mask.

  Raises:
    ValueError: the segmentation is malformed.
  """
  if isinstance(segmentation, dict):
    return _decode_rle(segmentation, size)
  if not isinstance(segmentation, list) or not segmentation:
    raise ValueError('broken polygon: there are no points')
  polygons = [_check_polygon(polygon, size) for polygon in segmentation]
  merged = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
  return coco_mask.decode(merged).astype(bool)


def flatten_points(points: Sequence[Sequence[float]]) -> list[float]:
  """Flattens [[x, y], ...] to COCO's [x, y, x, y, ...]."""
  return [value for point in points for value in point]


def ellipse_polygon(x: float, y: float, rx: float, ry: float) -> list[float]:
  """Approximates an axis-aligned ellipse by a polygon of 90 points.

  Args:
    x: column of the center, in pixels.
    y: row of the center.
    rx: horizontal radius.
    ry: vertical radius.

  Returns:
    A flat list x0, y0, x1, y1, ...
  """
  angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
  points = np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], -1)
  return points.ravel().tolist()


def rotate_polygon(polygon: Sequence[float], degrees: float) -> list[float]:
  """Rotates a polygon clockwise (y points down) about the mean of its points.

  Args:
    polygon: flat list x0, y0, x1, y1, ...
    degrees: angle.

  Returns:
    The rotated polygon, in the same form.
  """
  points = np.reshape(np.asarray(polygon, np.float64), (-1, 2))
  angle = np.deg2rad(degrees)
  rotation = np.array(
    [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
  )
  center = points.mean(0)
  return ((points - center) @ rotation + center).ravel().tolist()


def _check_polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
  """Returns a polygon as floats, after checking form and range."""
  height, width = size
  try:
    values = np.asarray(polygon, np.float64)
  except (TypeError, ValueError) as error:
    raise ValueError(f'broken polygon: {error}') from error
  if values.ndim != 1 or len(values) % 2:
    raise ValueError(
      f'broken polygon: {values.size} numbers are not a list of x, y pairs'
    )
  if len(values) < 6:
    raise ValueError(
      f'broken polygon: {len(values) // 2} points enclose no area'
    )
  # Annotation tools let points lie beyond the border, but not by a whole image.
  limit = np.array((width, height) * (len(values) // 2))
  valid = (values >= -limit) & (values <= 2 * limit)
  if not valid.all():
    i = int(np.argmin(valid)) // 2
    x, y = values[2 * i : 2 * i + 2].tolist()
    raise ValueError(
      f'broken polygon: point ({x:g}, {y:g}) is far outside the image of '
      f'{width}x{height} pixels'
    )
  return values.tolist()


def _decode_rle(segmentation: dict, size: tuple[int, int]) -> np.ndarray:
  """Decodes run lengths to [H, W] bool."""
  counts, rle_size = segmentation.get('counts'), segmentation.get('size')
  if rle_size is None or tuple(rle_size) != tuple(size):
    raise ValueError(
      f'run lengths of size {rle_size} for an image of {size[0]} rows and '
      f'{size[1]} columns'
    )
  if isinstance(counts, list):
    if min(counts, default=-1) < 0 or sum(counts) != size[0] * size[1]:
      raise ValueError(
        f'run lengths of {sum(counts)} pixels for an image of '
        f'{size[0] * size[1]}'
      )
    runs = coco_mask.frPyObjects(segmentation, *size)
  elif isinstance(counts, str):
    runs = {'size': list(size), 'counts': counts.encode()}
  else:
    raise ValueError('run lengths without `counts`')
  try:
    return coco_mask.decode(runs).astype(bool)
  except ValueError as error:
    raise ValueError(f'broken run lengths: {error}') from error
