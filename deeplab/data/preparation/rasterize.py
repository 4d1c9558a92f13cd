"""Rasterizes polygons and run-length encodings (RLE) as pycocotools does.

A segmentation has COCO's form: a list of polygons, each a flat list x0, y0, x1,
y1, ..., or a dict of run lengths with `size` and `counts`, where `counts` is a
list of numbers or COCO's compressed string. pycocotools decides which pixels a
polygon covers, so labels equal those that others train on.
"""

from collections.abc import Sequence
import reprlib
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

# pycocotools takes 80 bytes for each pixel of a polygon's outline.
_MAX_OUTLINE = 2**22
# Characters of one number in compressed run lengths; images have less than 2^30
# pixels.
_MAX_COUNT_CHARACTERS = 7


class EmptyShapeError(ValueError):
  """A shape has no points, or too few to enclose an area."""


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
    raise EmptyShapeError('broken polygon: there are no points')
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
  with np.errstate(over='ignore', invalid='ignore'):  # checked as points
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
  with np.errstate(over='ignore', invalid='ignore'):  # checked as points
    center = points.mean(0)
    rotated = (points - center) @ rotation + center
  return rotated.ravel().tolist()


def _check_polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
  """Returns a polygon as floats, after checking form and range."""
  height, width = size
  try:
    values = np.asarray(polygon, np.float64)
  except (OverflowError, RecursionError, TypeError, ValueError) as error:
    raise ValueError(f'broken polygon: {error}') from error
  if values.ndim != 1 or len(values) % 2:
    raise ValueError(
      f'broken polygon: {values.size} numbers are not a list of x, y pairs'
    )
  if len(values) < 6:
    raise EmptyShapeError(
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
  points = values.reshape(-1, 2)
  outline = abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
  if outline > _MAX_OUTLINE:
    raise ValueError(
      f'broken polygon: its outline of {outline:.0f} pixels is longer than '
      f'{_MAX_OUTLINE}'
    )
  return values.tolist()


def _decode_rle(segmentation: dict, size: tuple[int, int]) -> np.ndarray:
  """Decodes run lengths along the columns to [H, W] bool."""
  counts, rle_size = segmentation.get('counts'), segmentation.get('size')
  if not isinstance(rle_size, list) or rle_size != list(size):
    raise ValueError(
      f'run lengths of size {reprlib.repr(rle_size)} for an image of '
      f'{size[0]} rows and {size[1]} columns'
    )
  if isinstance(counts, str):
    counts = _decompress_counts(counts)
  elif not isinstance(counts, list):
    raise ValueError('run lengths without `counts`')
  return expand_runs(counts, size[0] * size[1]).reshape(size[::-1]).T


def expand_runs(counts: Sequence[Any] | np.ndarray, length: int) -> np.ndarray:
  """Expands run lengths, which are off and on in turn.

  pycocotools does not check them: wrong ones give pixels of uninitialized
  memory, or end the process.

  Args:
    counts: pixels of each run.
    length: pixels of all runs.

  Returns:
    [length] bool.

  Raises:
    ValueError: the counts are not whole and at least 0, or have another sum.
  """
  try:
    runs = np.array(counts)
  except (OverflowError, RecursionError, ValueError) as error:  # ragged lists
    raise ValueError('run lengths are not a list of whole numbers') from error
  if (
    runs.ndim != 1
    or runs.dtype.kind not in 'iuf'
    or not ((runs >= 0) & (runs <= length)).all()
    or (runs % 1).any()
  ):
    raise ValueError(
      f'run lengths are not whole numbers of 0 to {length} pixels'
    )
  runs = runs.astype(np.int64)
  if runs.sum() != length:
    raise ValueError(f'run lengths of {runs.sum()} pixels in place of {length}')
  return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _decompress_counts(text: str) -> np.ndarray:
  """Decodes COCO's compressed run lengths; returns int64 [number of runs].

  A character holds 6 bits, from '0' (48) on: 5 bits of a number, the lowest
  first, and a bit that is set if more follow. The highest bit of a number is
  its sign. From the fourth run on, the number is the difference to the run
  before the last (pycocotools, maskApi.c, rleFrString).

  Raises:
    ValueError: the text is cut, or holds other characters.
  """
  data = text.encode('utf-8', 'replace')
  codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
  if not codes.size or codes.min() < 0 or codes.max() > 63:
    raise ValueError('broken run lengths: `counts` is empty or no COCO string')
  ends = np.flatnonzero(codes < 32)
  if not ends.size or ends[-1] != len(codes) - 1:
    raise ValueError('broken run lengths: `counts` is cut')
  starts = np.concatenate([[0], ends[:-1] + 1])
  lengths = ends - starts + 1
  if lengths.max() > _MAX_COUNT_CHARACTERS:
    raise ValueError('broken run lengths: a number in `counts` is too long')
  places = np.arange(len(codes)) - np.repeat(starts, lengths)
  runs = np.add.reduceat((codes & 31) << 5 * places, starts)
  runs -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
  runs[1::2] = runs[1::2].cumsum()
  runs[2::2] = runs[2::2].cumsum()
  return runs
