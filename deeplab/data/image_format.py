"""Images of any number of channels, of 8 or 16 bits each."""

import dataclasses
import pathlib
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL import UnidentifiedImageError
import tifffile

from deeplab.data import dataset_info

# What `read_array` reads. Arrays (.npy) are images here, beside the files that
# all read.
IMAGE_AND_ARRAY_SUFFIXES = (*dataset_info.IMAGE_SUFFIXES, '.npy')


@dataclasses.dataclass(frozen=True)
class ImageSpec:
  """What the images of a data set are made of.

  Attributes:
    channels: number of channels.
    depth: bits a channel, 8 or 16.
  """

  channels: int = 3
  depth: int = 8

  def __post_init__(self):
    if self.depth not in (8, 16) or self.channels < 1:
      raise ValueError(
        f'images of {self.channels} channels of {self.depth} bits: '
        'config.data.mean gives one value a channel, and config.data.depth '
        'is 8 or 16'
      )

  @property
  def dtype(self) -> np.dtype:
    """uint8 or uint16."""
    return np.dtype(f'uint{self.depth}')

  @property
  def max_value(self) -> int:
    """The largest value, 255 or 65535."""
    return 2**self.depth - 1

  def __str__(self) -> str:
    names = {1: 'grey', 3: 'RGB'}
    name = names.get(self.channels, f'{self.channels} channels')
    return f'{name} in 0..{self.max_value}'


RGB = ImageSpec()


def image_spec(data: Any) -> ImageSpec:
  """Returns what the images of a config are made of.

  Args:
    data: `config.data`; reads `mean` (for the number of channels), and `depth`
      where the data set has a choice.

  Raises:
    ValueError: a depth that is not 8 or 16.
  """
  return ImageSpec(len(data.mean), data.get('depth', 8))


def read_array(path: pathlib.Path, spec: ImageSpec) -> np.ndarray:
  """Reads an image that is not RGB of 8 bits.

  TIFF files may have any number of channels, and so may NumPy's (.npy), which
  are [H, W] or [H, W, C]; a TIFF's alpha channel counts as a channel.

  Returns:
    [H, W, C] of `spec`' channels and dtype. A grey image of a set of three
    channels repeats its own.

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
      if axes.endswith('YX') and image.ndim == 3:  # channel by channel
        image = np.moveaxis(image, 0, -1)
    else:
      with Image.open(path) as file:
        file.load()  # OpenCV would return half of a damaged file
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
      'channels; convert the image, or train with one value a channel in '
      'config.data.mean and std'
    )
  if image.dtype != spec.dtype:
    raise ValueError(
      f'{path}: image of {image.dtype} for config.data.depth={spec.depth}; '
      'convert the image, or train with the depth (8 or 16) that it has'
    )
  return np.ascontiguousarray(image)


def damaged_file_error(path: pathlib.Path, error: Exception) -> ValueError:
  """Returns the error of a file that does not decode."""
  reason = str(error)
  if isinstance(error, UnidentifiedImageError):
    reason = 'of no format that is known'  # Pillow names an object in memory
  return ValueError(
    f'{path}: damaged or no image ({reason}); replace the file, or remove it, '
    'with what belongs to it'
  )


def too_large_error(path: pathlib.Path) -> ValueError:
  """Returns the error of an image that PIL takes for an attack."""
  limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
  return ValueError(
    f'{path}: an image of more than {limit:.0f} million pixels; cut it and its '
    'mask into tiles'
  )
