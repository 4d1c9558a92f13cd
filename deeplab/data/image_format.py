"""Images with any number of channels of 8 or 16 bits."""

import dataclasses
from typing import Any

import numpy as np

from deeplab.data import dataset_info

# Suffixes of all files that are read as images, NumPy arrays included.
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


def normalize_image(image: Any, mean: Any, std: Any) -> Any:
  """Returns (image - mean) / std in float32, channel by channel.

  Args:
    image: [..., C], values 0..255 or 0..65535; a NumPy or JAX array.
    mean: C values, in the units of `image`.
    std: C values.
  """
  mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  return (image.astype(np.float32) - mean) * (np.float32(1) / std)
