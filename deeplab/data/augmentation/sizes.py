"""What the augmentations do to an image's size, and nothing else.

The ops in `augment` compute their sizes here, from what they drew. The doctor,
which draws nothing, follows an image through the same functions:
`size_after_ops` goes through the ops at a quantile of their factors.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

Size = tuple[int, int]


def scale_size(size: Sequence[int], factor: float) -> Size:
  """Returns (H, W) times a factor."""
  return stretch_size(size, (factor, factor))


def stretch_size(size: Sequence[int], factors: Sequence[float]) -> Size:
  """Returns (H, W) times a factor each."""
  height, width = (
    max(1, round(n * f)) for n, f in zip(size, factors, strict=True)
  )
  return height, width


def fit_size(size: Sequence[int], factor: float, long: int, short: int) -> Size:
  """Returns (H, W) fitted into a frame times a factor; see `random_fit`."""
  scale = min(int(long * factor) / max(size), int(short * factor) / min(size))
  height, width = (max(1, int(n * scale + 0.5)) for n in size)
  return height, width


def resize_short_side(size: Sequence[int], short: int) -> Size:
  """Returns (H, W) with another shorter side; see `random_short_side`."""
  height, width = (
    short if n == min(size) else int(short * n / min(size)) for n in size
  )
  return height, width


def pad_to_min(size: Sequence[int], min_size: Sequence[int]) -> Size:
  """Returns (H, W), each side at least as long as that of `min_size`."""
  return max(size[0], min_size[0]), max(size[1], min_size[1])


def crop_to_max(size: Sequence[int], max_size: Sequence[int]) -> Size:
  """Returns (H, W), each side at most as long as that of `max_size`."""
  return min(size[0], max_size[0]), min(size[1], max_size[1])


def pad_target_size(augment: Any) -> Size:
  """Returns the (H, W) that `pad` fills up to."""
  height, width = augment.pad.size or augment.random_crop.size
  return height, width


def size_after_ops(
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
      size = crop_to_max(
        pad_to_min(size, crop.size) if crop.padded else size, crop.size
      )
    elif name == 'pad':
      size = pad_to_min(size, pad_target_size(augment))
    elif name == 'random_scale':
      size = scale_size(size, _factor_at_quantile(augment[name], quantile))
    elif name == 'random_fit':
      op = augment.random_fit
      size = fit_size(
        size, _factor_at_quantile(op, quantile), op.long, op.short
      )
    elif name == 'random_short_side':
      size = resize_short_side(
        size, round(_factor_at_quantile(augment[name], quantile))
      )
    elif name == 'random_stretch':
      op = augment.random_stretch
      drawn = 1 - op.probability  # below this quantile it does nothing
      if quantile > drawn:
        part = (quantile - drawn) / op.probability
        size = scale_size(size, _factor_at_quantile(op, part))
  return size


def _factor_at_quantile(op: Any, quantile: float) -> float:
  """Returns the factor of an op at a quantile."""
  return op.low + quantile * (op.high - op.low)
