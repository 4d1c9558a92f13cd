"""The images whose activation ranges an int8 file is quantised by."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from deeplab.data import image_format
from deeplab.data import resize
from deeplab.data.augmentation import compose


def draw_synthetic_images(
  count: int,
  size: Sequence[int],
  seed: int,
  image_spec: image_format.ImageSpec = image_format.RGB,
) -> list[np.ndarray]:
  """Draws images that need no data set: coarse blots under fine noise.

  They exercise every operator; ranges and quality on photographs they do not
  tell.

  Args:
    count: number of images.
    size: (H, W).
    seed: of the generator; the same images for the same arguments.
    image_spec: channels and depth.

  Returns:
    [H, W, C] each, of that depth.
  """
  rng = np.random.default_rng(seed)
  images = []
  for _ in range(count):
    coarse = rng.uniform(0, image_spec.max_value, (8, 8, image_spec.channels))
    image = resize.resize_bilinear(coarse, size)
    noise = rng.normal(0, image_spec.max_value * 16 / 255, image.shape)
    image += noise.astype(np.float32)
    image = np.clip(np.rint(image), 0, image_spec.max_value)
    images.append(image.astype(image_spec.dtype))
  return images


def representative_dataset(
  images: Iterable[np.ndarray],
  size: Sequence[int],
  normalization_in_graph: bool,
  mean: Sequence[float],
  std: Sequence[float],
  max_value: int = image_format.RGB.max_value,
) -> Iterator[np.ndarray]:
  """Yields the inputs [1, H, W, C] float32 that calibration runs.

  Images are resized as `predictors.ResizedPredictor` does it. One black and one
  white pixel in the first one make the input's range that of all pixel values,
  so that its scale does not hang on the brightest photograph: with
  normalisation in the graph, scale 1 and zero point 0 (-128 for int8), pixels
  as they are; or scale 257 for images of 16 bits.

  Args:
    images: [h, w, C], any size.
    size: (H, W) of the file.
    normalization_in_graph: the file takes images as they are.
    mean: a value a channel.
    std: likewise.
    max_value: the largest value that a pixel may have.
  """
  for i, image in enumerate(images):
    # A copy: an image of the right size comes back as it is.
    x = np.array(resize.resize_bilinear(image, size), np.float32)
    if i == 0:
      x[0, 0] = 0
      x[-1, -1] = max_value
    if not normalization_in_graph:
      x = compose.normalize_image(
        x, np.asarray(mean, np.float32), np.asarray(std, np.float32)
      )
    yield x[None]
