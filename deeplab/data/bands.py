"""Images of any number of channels, of 8 or 16 bits each."""

import dataclasses
import pathlib
from typing import Any

import cv2
import numpy as np
from PIL import Image
import tifffile


@dataclasses.dataclass(frozen=True)
class Pixels:
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


RGB = Pixels()


def read(path: pathlib.Path, pixels: Pixels) -> np.ndarray:
  """Reads an image that is not RGB of 8 bits.

  TIFF files may have any number of channels, and so may NumPy's (.npy), which
  are [H, W] or [H, W, C]; a TIFF's alpha channel counts as a channel.

  Returns:
    [H, W, C] of `pixels`' channels and dtype. A grey image of a set of three
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
    raise too_large(path) from error
  except (OSError, ValueError, tifffile.TiffFileError) as error:
    raise ValueError(
      f'{path}: damaged or no image ({error}); replace the file, or remove it '
      'together with its mask'
    ) from error
  image = image[..., None] if image.ndim == 2 else image
  if image.ndim == 3 and image.shape[2] == 1 and pixels.channels == 3:
    image = image.repeat(3, 2)
  if image.ndim != 3 or image.shape[2] != pixels.channels:
    raise ValueError(
      f'{path}: image of shape {list(image.shape)} for {pixels.channels} '
      'channels; give config.data.mean and std one value a channel'
    )
  if image.dtype != pixels.dtype:
    raise ValueError(
      f'{path}: image of {image.dtype} for config.data.depth={pixels.depth}; '
      'set the depth (8 or 16), or convert the image'
    )
  return np.ascontiguousarray(image)


def too_large(path: pathlib.Path) -> ValueError:
  """Returns the error of an image that PIL takes for an attack."""
  limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
  return ValueError(
    f'{path}: an image of more than {limit:.0f} million pixels; cut it and its '
    'mask into tiles'
  )
