"""Augmentations that move an image and its label together.

Ops as in `augment.py`, of images of any number of channels and depth.

Resizing is half-pixel consistent: pixel areas keep their borders, for the
image (bilinear) and for the label (nearest) alike, unless a config wants what
its source has (NEAREST). Pixels that an op uncovers are painted with `fill`,
the data set's mean colour unless the config has another, which normalises to
about zero, and labelled IGNORE.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any

import cv2
import numpy as np

from deeplab.data import dataset_info
from deeplab.data.augmentation import lazy_image
from deeplab.data.augmentation import sizes

Example = dict[str, Any]
Fill = Sequence[float]

# The pipeline runs one example a thread; OpenCV's own threads only contend.
cv2.setNumThreads(0)


# How an image that shrinks is resized: 'area' averages over the area of each
# new pixel; 'bilinear', as most sources have it, looks at two neighbours a
# side alone, so that it aliases, and the image is noisier than a real one.
SHRINK_INTERPOLATION = {'area': cv2.INTER_AREA, 'bilinear': cv2.INTER_LINEAR}
# Which id a pixel of a resized label takes: that under its 'center', or that
# under its upper left 'corner', as what calls OpenCV's INTER_NEAREST does. Of
# labels that shrink the latter lie up to half a new pixel off the image.
NEAREST_INTERPOLATION = {
  'center': cv2.INTER_NEAREST_EXACT,
  'corner': cv2.INTER_NEAREST,
}


def resize_example(
  example: Example, size: Sequence[int], shrink: str, nearest: str
) -> Example:
  """Resizes to `size` (H, W): image bilinear, label nearest.

  Args:
    example: the example; its image may be a `deferred.Image`, and stays so.
    size: (H, W).
    shrink: how an image that shrinks is resized, a key of SHRINK.
    nearest: how a label is resized, a key of NEAREST.

  Raises:
    ValueError: `shrink` or `nearest` is none.
  """
  for name, value, known in (
    ('shrink', shrink, SHRINK_INTERPOLATION),
    ('nearest', nearest, NEAREST_INTERPOLATION),
  ):
    if value not in known:
      raise ValueError(
        f'config.data.augment.{name}={value!r} is not one of {sorted(known)}'
      )
  height, width = size
  if example['label'].shape == (height, width):
    return example
  shrinks = height * width < example['label'].size
  kind = SHRINK_INTERPOLATION[shrink] if shrinks else cv2.INTER_LINEAR
  image = example['image']
  if isinstance(image, lazy_image.LazyImage):
    image = image.resize((height, width), kind)
  else:
    image = _map_channel_groups(
      image,
      lambda part, _: cv2.resize(part, (width, height), interpolation=kind),
    )
  label = cv2.resize(
    example['label'],
    (width, height),
    interpolation=NEAREST_INTERPOLATION[nearest],
  )
  return example | {'image': image, 'label': label}


def stretch(
  example: Example,
  rng: np.random.Generator,
  *,
  size: Sequence[int],
  shrink: str,
  nearest: str,
) -> Example:
  """Resizes to `size` (H, W), whatever the ratio of the sides was."""
  del rng
  return resize_example(example, size, shrink, nearest)


def random_scale(
  example: Example,
  rng: np.random.Generator,
  *,
  low: float,
  high: float,
  step: float,
  shrink: str,
  nearest: str,
) -> Example:
  """Resizes by a factor drawn from [low, high].

  Args:
    example: the example.
    rng: source of randomness.
    low: smallest factor.
    high: largest factor.
    step: draws from low, low + step, ..., high; 0 draws uniformly.
    shrink: see `resize_example`.
    nearest: likewise.
  """
  if step:
    factor = low + step * int(rng.integers(round((high - low) / step) + 1))
  else:
    factor = rng.uniform(low, high)
  return resize_example(
    example, sizes.scale_size(example['label'].shape, factor), shrink, nearest
  )


def random_fit(
  example: Example,
  rng: np.random.Generator,
  *,
  low: float,
  high: float,
  long: int,
  short: int,
  shrink: str,
  nearest: str,
) -> Example:
  """Resizes to fit into a frame, times a factor drawn from [low, high].

  MMSegmentation's `RandomResize` that keeps the ratio of the sides: one side is
  as long as the frame's, the other not longer.

  Args:
    example: the example.
    rng: source of randomness.
    low: smallest factor.
    high: largest factor.
    long: length of the frame's longer side, which the image's is fitted to.
    short: length of its shorter side.
    shrink: see `resize_example`.
    nearest: likewise.
  """
  factor = rng.uniform(low, high)
  shape = example['label'].shape
  return resize_example(
    example, sizes.fit_size(shape, factor, long, short), shrink, nearest
  )


def random_short_side(
  example: Example,
  rng: np.random.Generator,
  *,
  low: int,
  high: int,
  shrink: str,
  nearest: str,
) -> Example:
  """Resizes to a shorter side drawn from low, low + 1, ..., high.

  `RandomResize` of torchvision's reference.
  """
  short = int(rng.integers(low, high + 1))
  return resize_example(
    example,
    sizes.resize_short_side(example['label'].shape, short),
    shrink,
    nearest,
  )


def random_stretch(
  example: Example,
  rng: np.random.Generator,
  *,
  low: float,
  high: float,
  probability: float,
  shrink: str,
  nearest: str,
) -> Example:
  """Resizes height and width by a factor each, with the given probability.

  Between `stretch` and `random_crop` of one size, it is the `RandomScaleCrop`
  of edgeai-torchvision.
  """
  if rng.random() >= probability:
    return example
  factors = rng.uniform(low, high), rng.uniform(low, high)
  return resize_example(
    example,
    sizes.stretch_size(example['label'].shape, factors),
    shrink,
    nearest,
  )


def random_window(
  example: Example,
  rng: np.random.Generator,
  *,
  share: tuple[float, float],
  center: tuple[float, float],
  probability: float,
  shrink: str,
  nearest: str,
) -> Example:
  """Cuts out a window and enlarges it to the size of the image.

  The `random_crop` of STMicroelectronics' model zoo.

  Args:
    example: the example.
    rng: source of randomness.
    share: (low, high) of the window's height and width, of the image's; each is
      drawn apart.
    center: (low, high) of where its centre is, likewise; what would be outside
      of the image is left.
    probability: of doing so.
    shrink: see `resize_example`.
    nearest: likewise.
  """
  if rng.random() >= probability:
    return example
  shape = example['label'].shape
  window = []
  for n in shape:
    half, middle = rng.uniform(*share) / 2, rng.uniform(*center)
    start = round(n * max(0.0, middle - half))
    stop = round(n * min(1.0, middle + half))
    window.append(slice(start, max(stop, start + 1)))
  cut = {key: example[key][tuple(window)] for key in ('image', 'label')}
  return resize_example(example | cut, shape, shrink, nearest)


def pad(
  example: Example,
  rng: np.random.Generator,
  *,
  size: Sequence[int],
  fill: Fill,
) -> Example:
  """Pads at the bottom and the right to at least `size` (H, W)."""
  del rng
  shape = example['label'].shape
  bottom, right = np.subtract(sizes.pad_to_min(shape, size), shape).tolist()
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


def random_crop(
  example: Example,
  rng: np.random.Generator,
  *,
  size: Sequence[int],
  max_class_share: float,
  padded: bool,
  fill: Fill,
) -> Example:
  """Cuts out a window of `size` (H, W) at a random place.

  An image smaller than the window is padded at the bottom and the right
  first, so a crop larger than every image of the set is no error: each
  example is then the whole image with a border of `fill` and IGNORE.
  Not `padded`, its shorter sides stay, for a `pad` behind the ops that would
  change the border too.

  Args:
    example: the example.
    rng: source of randomness.
    size: (H, W) of the window.
    max_class_share: windows are drawn until every class has a smaller share
      than this of the labelled pixels; the eleventh is kept in any case, as
      MMSegmentation keeps what it draws after ten that will not do. 1 accepts
      the first.
    padded: whether a smaller image is padded first.
    fill: colour of padding.
  """
  if padded:
    example = pad(example, rng, size=size, fill=fill)
  image, label = example['image'], example['label']
  height, width = np.minimum(size, label.shape).tolist()
  for _ in range(11):
    top = int(rng.integers(label.shape[0] - height + 1))
    left = int(rng.integers(label.shape[1] - width + 1))
    window = slice(top, top + height), slice(left, left + width)
    if max_class_share >= 1:
      break
    counts = np.bincount(label[window].ravel(), minlength=256)[
      : dataset_info.IGNORE
    ]
    if counts.max() < max_class_share * counts.sum():
      break
  return example | {'image': image[window], 'label': label[window]}


def random_flip(
  example: Example, rng: np.random.Generator, *, probability: float
) -> Example:
  """Mirrors left and right with the given probability."""
  if rng.random() >= probability:
    return example
  return example | {
    'image': _map_channel_groups(
      example['image'], lambda part, _: cv2.flip(part, 1)
    ),
    'label': cv2.flip(example['label'], 1),
  }


def random_flip_vertical(
  example: Example, rng: np.random.Generator, *, probability: float
) -> Example:
  """Mirrors top and bottom with the given probability."""
  if rng.random() >= probability:
    return example
  return example | {
    'image': _map_channel_groups(
      example['image'], lambda part, _: cv2.flip(part, 0)
    ),
    'label': cv2.flip(example['label'], 0),
  }


def random_rotate(
  example: Example,
  rng: np.random.Generator,
  *,
  degrees: float,
  probability: float,
  fill: Fill,
) -> Example:
  """Rotates about the centre by an angle from [-degrees, degrees].

  The size stays; corners that come from outside are `fill` and IGNORE.
  """
  if rng.random() >= probability:
    return example
  height, width = example['label'].shape
  matrix = cv2.getRotationMatrix2D(
    ((width - 1) / 2, (height - 1) / 2), rng.uniform(-degrees, degrees), 1.0
  )
  warp = functools.partial(
    cv2.warpAffine, M=matrix, dsize=(width, height), borderMode=0
  )
  return example | {
    'image': _map_channel_groups(
      example['image'],
      lambda part, color: warp(part, flags=cv2.INTER_LINEAR, borderValue=color),
      fill,
    ),
    'label': warp(
      example['label'], flags=cv2.INTER_NEAREST, borderValue=dataset_info.IGNORE
    ),
  }


def _map_channel_groups(
  image: np.ndarray,
  apply: Callable[[np.ndarray, tuple[int, ...]], np.ndarray],
  fill: Fill = (),
) -> np.ndarray:
  """Applies what takes up to four channels to an image [H, W, C] of any.

  Args:
    image: the image.
    apply: maps some channels and their colour of `fill`, in grey levels.
    fill: a colour, or () where there is none.
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
