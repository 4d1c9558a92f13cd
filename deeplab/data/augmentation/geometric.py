"""Ops that move image and label together.

Resizing is half-pixel consistent: pixel areas keep their borders, for the
image (bilinear) and for the label (nearest neighbor) alike, unless the config
asks for OpenCV's older nearest neighbor (NEAREST_INTERPOLATION). Pixels that
an op uncovers get the color `fill`, by default the data set's mean, which
normalization maps to about zero, and the label IGNORE.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
from typing import ClassVar

import cv2
import numpy as np

from deeplab.data import dataset_info
from deeplab.data.augmentation import base
from deeplab.data.augmentation import lazy_image
from deeplab.data.augmentation import sizes

# The pipeline runs one example per thread; OpenCV's own threads only contend.
cv2.setNumThreads(0)

# Interpolation of an image that shrinks. 'area' averages over the area of each
# new pixel. 'bilinear', which most published recipes use, reads two neighbors
# per side only, so it aliases and the image is noisier than a real one.
SHRINK_INTERPOLATION = {'area': cv2.INTER_AREA, 'bilinear': cv2.INTER_LINEAR}
# The id that a pixel of a resized label takes: that under its 'center', or that
# under its upper left 'corner', as OpenCV's INTER_NEAREST has it. The latter
# shifts a label that shrinks against its image, by up to half a new pixel.
NEAREST_INTERPOLATION = {
  'center': cv2.INTER_NEAREST_EXACT,
  'corner': cv2.INTER_NEAREST,
}

# Windows that `RandomCrop` draws before it keeps one in any case: one, and ten
# more as in MMSegmentation.
_MAX_CROP_DRAWS = 11


def resize_example(
  example: base.Example, size: Sequence[int], shrink: str, nearest: str
) -> base.Example:
  """Resizes image (bilinear or by area) and label (nearest neighbor).

  Args:
    example: the example; a `lazy_image.LazyImage` stays lazy.
    size: (H, W) afterwards.
    shrink: interpolation of an image that shrinks, a key of
      SHRINK_INTERPOLATION.
    nearest: interpolation of the label, a key of NEAREST_INTERPOLATION.

  Raises:
    ValueError: `shrink` or `nearest` is unknown.
  """
  for name, value, choices in (
    ('shrink', shrink, SHRINK_INTERPOLATION),
    ('nearest', nearest, NEAREST_INTERPOLATION),
  ):
    if value not in choices:
      raise ValueError(
        f'config.data.augment.{name}={value!r} is not one of {sorted(choices)}'
      )
  height, width = size
  if example['label'].shape == (height, width):
    return example
  shrinks = height * width < example['label'].size
  interpolation = SHRINK_INTERPOLATION[shrink] if shrinks else cv2.INTER_LINEAR
  image = example['image']
  if isinstance(image, lazy_image.LazyImage):
    image = image.resize((height, width), interpolation)
  else:
    image = _map_channel_groups(
      image,
      lambda part, _: cv2.resize(
        part, (width, height), interpolation=interpolation
      ),
    )
  label = cv2.resize(
    example['label'],
    (width, height),
    interpolation=NEAREST_INTERPOLATION[nearest],
  )
  return example | {'image': image, 'label': label}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ResizingOp(base.Op):
  """Base class of the ops that resize.

  Attributes:
    shrink: interpolation of an image that shrinks, a key of
      SHRINK_INTERPOLATION.
    nearest: interpolation of the label, a key of NEAREST_INTERPOLATION.
  """

  shrink: str
  nearest: str
  accepts_lazy: ClassVar[bool] = True

  def _resize(self, example: base.Example, size: sizes.Size) -> base.Example:
    return resize_example(example, size, self.shrink, self.nearest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch(_ResizingOp):
  """Resizes to one size, whatever the aspect ratio was.

  Attributes:
    size: (H, W) afterwards.
  """

  size: Sequence[int]

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Resizes the example; draws nothing."""
    del rng
    return self._resize(example, (self.size[0], self.size[1]))

  def size_after(self, size: sizes.Size, quantile: float) -> sizes.Size:
    """Returns `self.size`."""
    del size, quantile
    return self.size[0], self.size[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomScale(_ResizingOp):
  """Resizes by a factor drawn from [low, high].

  Attributes:
    low: smallest factor.
    high: largest factor.
    step: draws from low, low + step, ..., high; 0 draws uniformly.
  """

  low: float
  high: float
  step: float

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws the factor and resizes."""
    if self.step:
      count = round((self.high - self.low) / self.step) + 1
      factor = self.low + self.step * int(rng.integers(count))
    else:
      factor = rng.uniform(self.low, self.high)
    return self._resize(
      example, sizes.scale_size(example['label'].shape, factor)
    )

  def size_after(self, size: sizes.Size, quantile: float) -> sizes.Size:
    """Returns the size at the quantile of a factor from [low, high]."""
    factor = sizes.interpolate(self.low, self.high, quantile)
    return sizes.scale_size(size, factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomFit(_ResizingOp):
  """Resizes to fit into a frame that is scaled by a random factor.

  MMSegmentation's `RandomResize` with `keep_ratio=True`: one side is as long as
  the scaled frame's, the other at most as long.

  Attributes:
    low: smallest factor.
    high: largest factor.
    long: the frame's longer side, for the image's longer side.
    short: the frame's shorter side.
  """

  low: float
  high: float
  long: int
  short: int

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws the factor and resizes."""
    factor = rng.uniform(self.low, self.high)
    shape = example['label'].shape
    return self._resize(
      example, sizes.fit_size(shape, factor, self.long, self.short)
    )

  def size_after(self, size: sizes.Size, quantile: float) -> sizes.Size:
    """Returns the size at the quantile of a factor from [low, high]."""
    factor = sizes.interpolate(self.low, self.high, quantile)
    return sizes.fit_size(size, factor, self.long, self.short)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomShortSide(_ResizingOp):
  """Resizes to a shorter side drawn from low, low + 1, ..., high.

  `RandomResize` of torchvision's segmentation reference.

  Attributes:
    low: smallest length of the shorter side, in pixels.
    high: largest.
  """

  low: int
  high: int

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws the length and resizes."""
    short = int(rng.integers(self.low, self.high + 1))
    return self._resize(
      example, sizes.short_side_size(example['label'].shape, short)
    )

  def size_after(self, size: sizes.Size, quantile: float) -> sizes.Size:
    """Returns the size at the quantile of a length from [low, high]."""
    short = round(sizes.interpolate(self.low, self.high, quantile))
    return sizes.short_side_size(size, short)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomStretch(_ResizingOp):
  """Resizes height and width by a factor each, with the given probability.

  Between `Stretch` and a `RandomCrop` of one size it is the `RandomScaleCrop`
  of edgeai-torchvision.

  Attributes:
    low: smallest factor.
    high: largest factor.
    probability: of resizing an example.
  """

  low: float
  high: float
  probability: float

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws both factors and resizes."""
    if rng.random() >= self.probability:
      return example
    factors = rng.uniform(self.low, self.high), rng.uniform(self.low, self.high)
    return self._resize(
      example, sizes.stretch_size(example['label'].shape, factors)
    )

  def size_after(self, size: sizes.Size, quantile: float) -> sizes.Size:
    """Returns the size with both factors at the quantile."""
    unchanged = 1 - self.probability  # share of examples; the lowest quantiles
    if quantile <= unchanged:
      return size
    part = (quantile - unchanged) / self.probability
    return sizes.scale_size(size, sizes.interpolate(self.low, self.high, part))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomWindow(_ResizingOp):
  """Cuts out a window and enlarges it to the size of the image.

  The `random_crop` of STMicroelectronics' model zoo.

  Attributes:
    share: (low, high) of the window's height and width as shares of the
      image's; the two are drawn independently.
    center: (low, high) of the window's center, as shares of the image's height
      and width. The part of a window that is outside the image is cut off.
    probability: of doing so.
  """

  share: tuple[float, float]
  center: tuple[float, float]
  probability: float
  accepts_lazy: ClassVar[bool] = False

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws the window, cuts it out, and resizes it."""
    if rng.random() >= self.probability:
      return example
    shape = example['label'].shape
    window = []
    for n in shape:
      half, middle = rng.uniform(*self.share) / 2, rng.uniform(*self.center)
      start = round(n * max(0.0, middle - half))
      stop = round(n * min(1.0, middle + half))
      window.append(slice(start, max(stop, start + 1)))
    cut = {key: example[key][tuple(window)] for key in ('image', 'label')}
    return self._resize(example | cut, shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pad(base.Op):
  """Pads at the bottom and the right to a minimum size.

  Attributes:
    size: (H, W) at least; () in a config takes that of `random_crop`.
    fill: color of the padding, one value per channel.
  """

  size: Sequence[int]
  fill: Sequence[float]
  accepts_lazy: ClassVar[bool] = True

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Pads the example; draws nothing."""
    del rng
    return _pad_example(example, self.size, self.fill)

  def size_after(self, size: sizes.Size, quantile: float) -> sizes.Size:
    """Returns the size, each side at least that of `self.size`."""
    del quantile
    return sizes.pad_to_min(size, self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomCrop(base.Op):
  """Cuts out a window at a random place.

  An image smaller than the window is padded at the bottom and the right first,
  so a crop larger than every image of the set is no error: each example is
  then the whole image with a border of `fill` and IGNORE. With `padded=False`
  its shorter sides stay, for a `Pad` after the ops that would change the
  border too.

  Attributes:
    size: (H, W) of the window.
    max_class_share: windows are drawn until every class covers less than this
      share of the labelled pixels; the eleventh is kept in any case, as in
      MMSegmentation's `cat_max_ratio`. 1 keeps the first.
    padded: True to pad smaller images first.
    fill: color of the padding, one value per channel.
  """

  size: Sequence[int]
  max_class_share: float
  padded: bool
  fill: Sequence[float]
  accepts_lazy: ClassVar[bool] = True

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws windows and cuts out the last one."""
    if self.padded:
      example = _pad_example(example, self.size, self.fill)
    image, label = example['image'], example['label']
    height, width = np.minimum(self.size, label.shape).tolist()
    for _ in range(_MAX_CROP_DRAWS):
      top = int(rng.integers(label.shape[0] - height + 1))
      left = int(rng.integers(label.shape[1] - width + 1))
      window = slice(top, top + height), slice(left, left + width)
      if self.max_class_share >= 1:
        break
      counts = np.bincount(label[window].ravel(), minlength=256)[
        : dataset_info.IGNORE
      ]
      if counts.max() < self.max_class_share * counts.sum():
        break
    return example | {'image': image[window], 'label': label[window]}

  def size_after(self, size: sizes.Size, quantile: float) -> sizes.Size:
    """Returns the size of the window within the padded image."""
    del quantile
    if self.padded:
      size = sizes.pad_to_min(size, self.size)
    return sizes.crop_to_max(size, self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomFlip(base.Op):
  """Mirrors left and right with the given probability.

  Attributes:
    probability: of mirroring an example.
    axis: axis of the image and label [H, W, ...] that is mirrored.
  """

  axis: ClassVar[int] = 1

  probability: float

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Mirrors the example, or returns it as it is."""
    if rng.random() >= self.probability:
      return example
    return _flip_example(example, self.axis)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomFlipVertical(RandomFlip):
  """Mirrors top and bottom with the given probability.

  Attributes:
    probability: of mirroring an example.
  """

  axis: ClassVar[int] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomRotate(base.Op):
  """Rotates about the center by a random angle; the size stays.

  Corners that come from outside the image are `fill` and IGNORE.

  Attributes:
    degrees: the angle is drawn from [-degrees, degrees].
    probability: of rotating an example.
    fill: color of the corners, one value per channel.
  """

  degrees: float
  probability: float
  fill: Sequence[float]

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws the angle and rotates."""
    if rng.random() >= self.probability:
      return example
    height, width = example['label'].shape
    matrix = cv2.getRotationMatrix2D(
      ((width - 1) / 2, (height - 1) / 2),
      rng.uniform(-self.degrees, self.degrees),
      1.0,
    )
    warp = functools.partial(
      cv2.warpAffine,
      M=matrix,
      dsize=(width, height),
      borderMode=cv2.BORDER_CONSTANT,
    )
    return example | {
      'image': _map_channel_groups(
        example['image'],
        lambda part, color: warp(
          part, flags=cv2.INTER_LINEAR, borderValue=color
        ),
        self.fill,
      ),
      'label': warp(
        example['label'],
        flags=cv2.INTER_NEAREST,
        borderValue=dataset_info.IGNORE,
      ),
    }


# The ops of this module, by their names in `config.data.augment.ops`.
OPS: dict[str, type[base.Op]] = {
  'pad': Pad,
  'random_crop': RandomCrop,
  'random_fit': RandomFit,
  'random_flip': RandomFlip,
  'random_flip_vertical': RandomFlipVertical,
  'random_rotate': RandomRotate,
  'random_scale': RandomScale,
  'random_short_side': RandomShortSide,
  'random_stretch': RandomStretch,
  'random_window': RandomWindow,
  'stretch': Stretch,
}


def _flip_example(example: base.Example, axis: int) -> base.Example:
  """Reverses rows (axis 0) or columns (axis 1) of image and label."""
  return example | {
    'image': _map_channel_groups(
      example['image'], lambda part, _: cv2.flip(part, axis)
    ),
    'label': cv2.flip(example['label'], axis),
  }


def _pad_example(
  example: base.Example, min_size: Sequence[int], fill: Sequence[float]
) -> base.Example:
  """Pads at the bottom and the right to at least `min_size` (H, W).

  A lazy image becomes an array if it is padded, and stays lazy if it is not.
  """
  shape = example['label'].shape
  bottom, right = np.subtract(sizes.pad_to_min(shape, min_size), shape).tolist()
  if not (bottom or right):
    return example
  border = functools.partial(
    cv2.copyMakeBorder,
    top=0,
    bottom=bottom,
    left=0,
    right=right,
    borderType=cv2.BORDER_CONSTANT,
  )
  return example | {
    'image': _map_channel_groups(
      lazy_image.materialize(example['image']),
      lambda part, color: border(part, value=color),
      fill,
    ),
    'label': border(example['label'], value=dataset_info.IGNORE),
  }


def _map_channel_groups(
  image: np.ndarray,
  apply: Callable[[np.ndarray, tuple[int, ...]], np.ndarray],
  fill: Sequence[float] = (),
) -> np.ndarray:
  """Applies a function to groups of four channels, as OpenCV takes no more.

  Args:
    image: [H, W, C].
    apply: maps (channels [H, W, up to 4], their part of `fill` as integers) to
      new channels.
    fill: one value per channel; () for a function that paints nothing.

  Returns:
    [H', W', C].
  """
  count = image.shape[2]
  color = tuple(round(float(value)) for value in fill)
  parts = [
    apply(
      image if count <= 4 else np.ascontiguousarray(image[..., i : i + 4]),
      color[i : i + 4],
    )
    for i in range(0, count, 4)
  ]
  # OpenCV drops the last axis of an image of one channel.
  parts = [part if part.ndim == 3 else part[..., None] for part in parts]
  return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
