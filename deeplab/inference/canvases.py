"""Canvases: few sizes that images of many sizes are padded to.

A network is traced and compiled once for each size of its input, which takes
seconds on a CPU and minutes on an accelerator. A folder of photographs has
dozens of sizes, and a few canvases cover all of them.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Size = tuple[int, int]

# Largest part of a canvas that may be padding. Image pooling averages over the
# padding as well, so that an image must not be small in its canvas.
_LARGEST_PADDING = 1 / 3
# Up to so many sizes are compared pair by pair.
_MAX_SIZES = 64


def plan_canvases(
  sizes: Iterable[Sequence[int]], max_padding: float
) -> tuple[Size, ...]:
  """Returns few sizes that cover all images with few more pixels.

  It begins with one canvas for each size. Again and again it joins the two
  whose union adds the fewest pixels, until the images together would have more
  than `max_padding` of theirs as padding.

  Args:
    sizes: (H, W) of each image, one entry for an image.
    max_padding: largest share of pixels to add, of those of all images.

  Returns:
    (H, W) of each canvas; every size fits into one of them.
  """
  images = np.array([tuple(size[:2]) for size in sizes], np.int64)
  if not len(images):
    return ()
  limit = (1 + max_padding) * images.prod(axis=1).sum()
  groups = _group_sizes(images, limit)
  canvases = groups.sizes
  while 1 < len(canvases) <= _MAX_SIZES:
    fitted = _fitted_pixels(groups, canvases)
    nearest = np.argsort(fitted, axis=1)[:, :3]
    pixels = np.take_along_axis(fitted, nearest, axis=1)
    best, pair = limit, None
    for i in range(len(canvases) - 1):
      others = np.arange(i + 1, len(canvases))
      unions = np.maximum(canvases[i], canvases[others])
      # The smallest canvas of each size but for i and the other one.
      joined: np.ndarray = np.array(np.inf)
      for rank in reversed(range(nearest.shape[1])):
        canvas = nearest[:, rank, None]
        left = (canvas != i) & (canvas != others)
        joined = np.where(left, pixels[:, rank, None], joined)
      joined = np.minimum(joined, _fitted_pixels(groups, unions))
      totals = groups.counts @ joined
      if totals.min() <= best:
        best, pair = totals.min(), (i, int(others[totals.argmin()]))
    if pair is None:
      break
    union = canvases[list(pair)].max(axis=0)
    canvases = np.unique(
      np.concatenate([np.delete(canvases, pair, axis=0), union[None]]), axis=0
    )
  return tuple((int(h), int(w)) for h, w in canvases)


class _Groups(NamedTuple):
  """Images of similar sizes.

  Attributes:
    sizes: int64 [n, 2], (H, W) that covers a group.
    least: int64 [n], pixels of its smallest image.
    counts: int64 [n], number of its images.
  """

  sizes: np.ndarray
  least: np.ndarray
  counts: np.ndarray


def _group_sizes(images: np.ndarray, limit: float) -> _Groups:
  """Groups sizes [n, 2], if possible to `_MAX_SIZES`, by rounding them up.

  All of them together have at most `limit` pixels afterwards.
  """
  pixels, step, groups = images.prod(axis=1), 1, None
  while groups is None or len(groups.sizes) > _MAX_SIZES:
    rounded = -(-images // step) * step
    if groups is not None and rounded.prod(axis=1).sum() > limit:
      break
    sizes, group, counts = np.unique(
      rounded, axis=0, return_inverse=True, return_counts=True
    )
    least = np.full(len(sizes), np.iinfo(np.int64).max)
    np.minimum.at(least, group.ravel(), pixels)
    groups = _Groups(sizes, least, counts)
    step *= 2
  return groups


def _fitted_pixels(groups: _Groups, canvases: np.ndarray) -> np.ndarray:
  """Returns the pixels of each group in each canvas; infinite if it fits badly.

  Args:
    groups: n groups.
    canvases: [m, 2].

  Returns:
    float64 [n, m].
  """
  pixels = canvases.prod(axis=1)
  fits = (canvases[None] >= groups.sizes[:, None]).all(axis=2)
  fits &= groups.least[:, None] >= (1 - _LARGEST_PADDING) * pixels
  # A group fits its own size, though rounding made it large.
  fits |= (canvases[None] == groups.sizes[:, None]).all(axis=2)
  return np.where(fits, pixels.astype(np.float64), np.inf)


def choose_canvas(size: Size, canvases: Sequence[Size]) -> Size:
  """Returns the smallest canvas that a size fits into, or the size itself.

  Args:
    size: (H, W).
    canvases: (H, W) each; a canvas most of which would be padding is left out.
  """
  height, width = size
  pixels = height * width
  fitting = [
    (h * w, h, w)
    for h, w in canvases
    if h >= height and w >= width and pixels >= (1 - _LARGEST_PADDING) * h * w
  ]
  return min(fitting)[1:] if fitting else size
