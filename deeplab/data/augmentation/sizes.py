"""Arithmetic of image sizes, (H, W) in pixels.

The ops of `geometric` compute with the same functions in `__call__`, where a
factor was drawn, and in `size_after`, where a quantile stands for it.
"""

from collections.abc import Sequence

Size = tuple[int, int]


def scale_size(size: Sequence[int], factor: float) -> Size:
  """Multiplies both sides by one factor and rounds; a side is at least 1.

  Args:
    size: (H, W).
    factor: the factor.
  """
  return stretch_size(size, (factor, factor))


def stretch_size(size: Sequence[int], factors: Sequence[float]) -> Size:
  """Multiplies each side by its own factor and rounds; a side is at least 1.

  Args:
    size: (H, W).
    factors: those of height and width.
  """
  height, width = (
    max(1, round(n * f)) for n, f in zip(size, factors, strict=True)
  )
  return height, width


def fit_size(size: Sequence[int], factor: float, long: int, short: int) -> Size:
  """Scales a size, at its own aspect ratio, to fit into a scaled frame.

  The result is the largest whose longer side is at most `factor * long` and
  whose shorter side is at most `factor * short`, rounded as mmcv's
  `imrescale` rounds.

  Args:
    size: (H, W).
    factor: scales the frame.
    long: the frame's longer side.
    short: the frame's shorter side.
  """
  scale = min(int(long * factor) / max(size), int(short * factor) / min(size))
  height, width = (max(1, int(n * scale + 0.5)) for n in size)
  return height, width


def short_side_size(size: Sequence[int], short: int) -> Size:
  """Scales a size, at its own aspect ratio, to a given shorter side.

  The longer side is rounded down, as torchvision's `resize` does.

  Args:
    size: (H, W).
    short: length of the shorter side.
  """
  height, width = (
    short if n == min(size) else int(short * n / min(size)) for n in size
  )
  return height, width


def pad_to_min(size: Sequence[int], min_size: Sequence[int]) -> Size:
  """Returns (H, W), each side raised to that of `min_size` if it is shorter."""
  return max(size[0], min_size[0]), max(size[1], min_size[1])


def crop_to_max(size: Sequence[int], max_size: Sequence[int]) -> Size:
  """Returns (H, W), each side cut to that of `max_size` if it is longer."""
  return min(size[0], max_size[0]), min(size[1], max_size[1])


def interpolate(low: float, high: float, quantile: float) -> float:
  """Returns the quantile, 0..1, of a uniform distribution on [low, high]."""
  return low + quantile * (high - low)
