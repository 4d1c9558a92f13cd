"""Polygons and run lengths as masks, drawn as COCO's own tools draw them.

A segmentation is what COCO's JSON files hold: a list of polygons, each a flat
list x0, y0, x1, y1, ..., or a dict of run lengths with `size` and `counts`,
which are a list of numbers or COCO's compressed string. Which pixels a polygon
covers is pycocotools' decision, so labels equal those of everyone who trains on
COCO.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def segmentation_to_mask(
  segmentation: Any, size: tuple[int, int]
) -> np.ndarray:
  """Draws one region.

  Args:
    segmentation: polygons, which are united, or run lengths.
    size: (H, W) of the image.

  Returns:
    [H, W] bool.

  Raises:
    ValueError: the segmentation is broken; the message says how.
  """
  if isinstance(segmentation, dict):
    return _decode_rle(segmentation, size)
  if not isinstance(segmentation, list) or not segmentation:
    raise ValueError('broken polygon: there are no points')
  polygons = [_check_polygon(polygon, size) for polygon in segmentation]
  merged = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
  return coco_mask.decode(merged).astype(bool)


def flatten_points(points: Sequence[Sequence[float]]) -> list[float]:
  """Returns [[x, y], ...] as one flat list, which is COCO's form."""
  return [value for point in points for value in point]


def ellipse_polygon(x: float, y: float, rx: float, ry: float) -> list[float]:
  """Returns an ellipse about (x, y) as a polygon of 90 points."""
  angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
  points = np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], -1)
  return points.ravel().tolist()


def rotate_polygon(polygon: Sequence[float], degrees: float) -> list[float]:
  """Turns a polygon clockwise, as y grows downwards, about its middle."""
  points = np.reshape(np.asarray(polygon, np.float64), (-1, 2))
  angle = np.deg2rad(degrees)
  turn = np.array(
    [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
  )
  middle = points.mean(0)
  return ((points - middle) @ turn + middle).ravel().tolist()


def _check_polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
  """Returns a polygon as numbers that can be drawn."""
  height, width = size
  try:
    values = np.asarray(polygon, np.float64)
  except (TypeError, ValueError) as error:
    raise ValueError(f'broken polygon: {error}') from error
  if values.ndim != 1 or len(values) % 2:
    raise ValueError(
      f'broken polygon: {values.size} numbers are no list of x, y pairs'
    )
  if len(values) < 6:
    raise ValueError(
      f'broken polygon: {len(values) // 2} points enclose nothing'
    )
  far = np.array((width, height) * (len(values) // 2))
  # Tools let a point slip over the border, but not by a whole image.
  if not ((values >= -far) & (values <= 2 * far)).all():
    i = int(np.argmin((values >= -far) & (values <= 2 * far))) // 2
    x, y = values[2 * i : 2 * i + 2].tolist()
    raise ValueError(
      f'broken polygon: point ({x:g}, {y:g}) is far outside the image of '
      f'{width}x{height} pixels'
    )
  return values.tolist()


def _decode_rle(segmentation: dict, size: tuple[int, int]) -> np.ndarray:
  """Draws run lengths."""
  counts, own = segmentation.get('counts'), segmentation.get('size')
  if own is None or tuple(own) != tuple(size):
    raise ValueError(
      f'run lengths of size {own} for an image of {size[0]} rows and '
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
