"""What the augmentations do to an image's size, and nothing else.

The ops in `augment` compute their sizes here, from what they drew. The doctor,
which draws nothing, follows an image through the same functions: `after` goes
through the ops at a quantile of their factors.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

Size = tuple[int, int]


def scaled(size: Sequence[int], factor: float) -> Size:
  """Returns (H, W) times a factor."""
  return stretched(size, (factor, factor))


def stretched(size: Sequence[int], factors: Sequence[float]) -> Size:
  """Returns (H, W) times a factor each."""
  height, width = (
    max(1, round(n * f)) for n, f in zip(size, factors, strict=True)
  )
  return height, width


def fitted(size: Sequence[int], factor: float, long: int, short: int) -> Size:
  """Returns (H, W) fitted into a frame times a factor; see `random_fit`."""
  scale = min(int(long * factor) / max(size), int(short * factor) / min(size))
  height, width = (max(1, int(n * scale + 0.5)) for n in size)
  return height, width


def short_sided(size: Sequence[int], short: int) -> Size:
  """Returns (H, W) with another shorter side; see `random_short_side`."""
  height, width = (
    short if n == min(size) else int(short * n / min(size)) for n in size
  )
  return height, width


def padded(size: Sequence[int], least: Sequence[int]) -> Size:
  """Returns (H, W), each side at least as long as that of `least`."""
  return max(size[0], least[0]), max(size[1], least[1])


def cropped(size: Sequence[int], most: Sequence[int]) -> Size:
  """Returns (H, W), each side at most as long as that of `most`."""
  return min(size[0], most[0]), min(size[1], most[1])


def pad_size(augment: Any) -> Size:
  """Returns the (H, W) that `pad` fills up to."""
  height, width = augment.pad.size or augment.random_crop.size
  return height, width


def after(
  augment: Any, ops: Iterable[str], size: Size, quantile: float
) -> Size:
  """Returns the size that ops leave an image of `size` (H, W).

  Args:
    augment: `config.data.augment`.
    ops: names, in the order of their use.
    size: (H, W) before them.
    quantile: 0..1; 0 is the smallest factor of each op, 1 the largest.
  """
  for name in ops:
    if name == 'stretch':
      size = augment.stretch.size[0], augment.stretch.size[1]
    elif name == 'random_crop':
      crop = augment.random_crop
      size = cropped(
        padded(size, crop.size) if crop.padded else size, crop.size
      )
    elif name == 'pad':
      size = padded(size, pad_size(augment))
    elif name == 'random_scale':
      size = scaled(size, _between(augment[name], quantile))
    elif name == 'random_fit':
      op = augment.random_fit
      size = fitted(size, _between(op, quantile), op.long, op.short)
    elif name == 'random_short_side':
      size = short_sided(size, round(_between(augment[name], quantile)))
    elif name == 'random_stretch':
      op = augment.random_stretch
      drawn = 1 - op.probability  # below this quantile it does nothing
      if quantile > drawn:
        part = (quantile - drawn) / op.probability
        size = scaled(size, _between(op, part))
  return size


def _between(op: Any, quantile: float) -> float:
  """Returns the factor of an op at a quantile."""
  return op.low + quantile * (op.high - op.low)
