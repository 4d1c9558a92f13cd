"""The images whose activation ranges an int8 file is quantised by."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from deeplab.data import image_format
from deeplab.data import resize
from deeplab.data.augmentation import compose


def synthetic(
  count: int,
  size: Sequence[int],
  seed: int,
  pixels: image_format.Pixels = image_format.RGB,
) -> list[np.ndarray]:
  """Draws images that need no data set: coarse blots under fine noise.

  They exercise every operator; ranges and quality on photographs they do not
  tell.

  Args:
    count: number of images.
    size: (H, W).
    seed: of the generator; the same images for the same arguments.
    pixels: channels and depth.

  Returns:
    [H, W, C] each, of that depth.
  """
  rng = np.random.default_rng(seed)
  images = []
  for _ in range(count):
    coarse = rng.uniform(0, pixels.highest, (8, 8, pixels.channels))
    image = resize.resize_bilinear(coarse, size)
    noise = rng.normal(0, pixels.highest * 16 / 255, image.shape)
    image += noise.astype(np.float32)
    image = np.clip(np.rint(image), 0, pixels.highest)
    images.append(image.astype(pixels.dtype))
  return images


def samples(
  images: Iterable[np.ndarray],
  size: Sequence[int],
  normalization_in_graph: bool,
  mean: Sequence[float],
  std: Sequence[float],
  highest: int = image_format.RGB.highest,
) -> Iterator[np.ndarray]:
  """Yields the inputs [1, H, W, C] float32 that calibration runs.

  Images are resized as `predictors.Resized` does it. One black and one white
  pixel in the first one make the input's range that of all pixel values, so
  that its scale does not hang on the brightest photograph: with normalisation
  in the graph, scale 1 and zero point 0 (-128 for int8), pixels as they are; or
  scale 257 for images of 16 bits.

  Args:
    images: [h, w, C], any size.
    size: (H, W) of the file.
    normalization_in_graph: the file takes images as they are.
    mean: a value a channel.
    std: likewise.
    highest: the largest value that a pixel may have.
  """
  for i, image in enumerate(images):
    # A copy: an image of the right size comes back as it is.
    x = np.array(resize.resize_bilinear(image, size), np.float32)
    if i == 0:
      x[0, 0] = 0
      x[-1, -1] = highest
    if not normalization_in_graph:
      x = compose.normalize(
        x, np.asarray(mean, np.float32), np.asarray(std, np.float32)
      )
    yield x[None]
