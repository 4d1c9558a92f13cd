"""Images with any number of channels of 8 or 16 bits."""

import dataclasses
import pathlib
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL import UnidentifiedImageError
import tifffile

from deeplab.data import dataset_info

# Suffixes of all files that are read as images: `read_array` also reads NumPy
# arrays.
IMAGE_AND_ARRAY_SUFFIXES = (*dataset_info.IMAGE_SUFFIXES, '.npy')


@dataclasses.dataclass(frozen=True)
class ImageSpec:
  """Channels and bit depth of the images of a data set.

  Attributes:
    channels: number of channels.
    depth: bits of each channel, 8 or 16.
  """

  channels: int = 3
  depth: int = 8

  def __post_init__(self):
    if self.depth not in (8, 16) or self.channels < 1:
      raise ValueError(
        f'images of {self.channels} channels of {self.depth} bits: '
        'config.data.mean must have one value for each channel, and '
        'config.data.depth must be 8 or 16'
      )

  @property
  def dtype(self) -> np.dtype:
    """NumPy dtype of the images, uint8 or uint16."""
    return np.dtype(f'uint{self.depth}')

  @property
  def max_value(self) -> int:
    """Largest pixel value, 255 or 65535."""
    return 2**self.depth - 1

  def __str__(self) -> str:
    names = {1: 'grey', 3: 'RGB'}
    name = names.get(self.channels, f'{self.channels} channels')
    return f'{name} in 0..{self.max_value}'


RGB = ImageSpec()


def image_spec(data: Any) -> ImageSpec:
  """Returns the channels and bit depth of a config's images.

  Args:
    data: `config.data`; reads `mean`, whose length is the number of channels,
      and `depth`, if the field exists.

  Raises:
    ValueError: the depth is not 8 or 16.
  """
  return ImageSpec(len(data.mean), data.get('depth', 8))


def read_array(path: pathlib.Path, spec: ImageSpec) -> np.ndarray:
  """Reads an image of any number of channels, of 8 or 16 bits.

  TIFF and NumPy (.npy, [H, W] or [H, W, C]) files may have any number of
  channels; an alpha channel of a TIFF counts as one.

  Args:
    path: the file.
    spec: the expected channels and depth.

  Returns:
    [H, W, C] with the channels and dtype of `spec`. If it has three channels, a
    grey image repeats its one channel.

  Raises:
    ValueError: the file is damaged, or has other channels or another depth.
  """
  image: Any
  try:
    if path.suffix.lower() == '.npy':
      image = np.load(path, allow_pickle=False)
    elif path.suffix.lower() in ('.tif', '.tiff'):
      with tifffile.TiffFile(path) as file:
        image, axes = file.series[0].asarray(), file.series[0].axes
      if axes.endswith('YX') and image.ndim == 3:  # stored as [C, H, W]
        image = np.moveaxis(image, 0, -1)
    else:
      with Image.open(path) as file:
        file.load()  # raises if truncated; OpenCV would return half the image
      image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
      if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
  except Image.DecompressionBombError as error:
    raise too_large_error(path) from error
  except (OSError, ValueError, tifffile.TiffFileError) as error:
    raise damaged_file_error(path, error) from error
  image = image[..., None] if image.ndim == 2 else image
  if image.ndim == 3 and image.shape[2] == 1 and spec.channels == 3:
    image = image.repeat(3, 2)
  if image.ndim != 3 or image.shape[2] != spec.channels:
    raise ValueError(
      f'{path}: image of shape {list(image.shape)} for {spec.channels} '
      'channels; convert the image, or give config.data.mean and std one value '
      'for each of its channels'
    )
  if image.dtype != spec.dtype:
    raise ValueError(
      f'{path}: image of {image.dtype} for config.data.depth={spec.depth}; '
      'convert the image, or set config.data.depth to its depth, 8 or 16'
    )
  return np.ascontiguousarray(image)


def damaged_file_error(path: pathlib.Path, error: Exception) -> ValueError:
  """Returns the error for an image file that does not decode."""
  reason = str(error)
  if isinstance(error, UnidentifiedImageError):
    # Pillow's own text names an object in memory.
    reason = 'of an unknown format'
  return ValueError(
    f'{path}: damaged or not an image ({reason}); replace the file, or remove '
    'both image and mask'
  )


def too_large_error(path: pathlib.Path) -> ValueError:
  """Returns the error for an image above PIL's limit (decompression bomb)."""
  limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
  return ValueError(
    f'{path}: the image has more than {limit:.0f} million pixels; cut it and '
    'its mask into tiles'
  )


def normalize_image(image: Any, mean: Any, std: Any) -> Any:
  """Returns (image - mean) / std in float32, channel by channel.

  Args:
    image: [..., C], values 0..255 or 0..65535; a NumPy or JAX array.
    mean: C values, in the units of `image`.
    std: C values.
  """
  mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  return (image.astype(np.float32) - mean) * (np.float32(1) / std)
