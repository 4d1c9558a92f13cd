"""Reads image files of the user and of data sets, upright."""

import pathlib

import cv2
import numpy as np
from PIL import Image

from deeplab.data import image_files
from deeplab.data import image_format

# PIL modes with 8 bits per channel, which PIL converts to RGB without loss.
_IMAGE_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')


def encode_png(pixels: np.ndarray) -> bytes:
  """Encodes uint8 ids [H, W] or an RGB image [H, W, 3] as PNG."""
  if pixels.ndim == 3:
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
  # OpenCV's default settings give larger files, which take 1.5 times as long to
  # decode; decoding happens in every epoch.
  options = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 6),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
  )
  _, data = cv2.imencode('.png', pixels, options)
  return data.tobytes()


def decode_image(path: pathlib.Path) -> tuple[bytes, Image.Image, int]:
  """Reads an image file and decodes it completely.

  Returns:
    The file's bytes, the decoded image in a mode that converts to RGB, and the
    EXIF orientation by which it is still to be turned, 1 to 8.

  Raises:
    ValueError: the file is damaged or too large, or has more than 8 bits per
      channel.
  """
  data = image_files.read_bytes(path)
  with image_files.open_image(path, data) as image:
    # PIL turns TIFF files itself.
    pending = image.format != 'TIFF'
    orientation = image_files.get_orientation(image) if pending else 1
    image.load()
    # PIL silently drops the lower byte of 16-bit channels.
    depths = getattr(image, 'tag_v2', {}).get(258, (8,))
    deep = max(depths) > 8 or (image.format == 'PNG' and data[24] > 8)
  if deep or image.mode not in _IMAGE_MODES:
    raise ValueError(
      f'{path}: image of mode {image.mode}{" of 16 bits" if deep else ""}; '
      'convert it to 8 bits per channel, or set config.data.depth=16 and give '
      'config.data.mean and std in 16-bit units'
    )
  return data, image, orientation


def is_read_as_array(path: pathlib.Path, spec: image_format.ImageSpec) -> bool:
  """Returns True if `image_files.read_array` reads the image.

  Other images are RGB of 8 bits, which keep their encoded bytes.
  """
  return spec != image_format.RGB or path.suffix.lower() == '.npy'


def read_encoded_image(
  path: pathlib.Path, upright: bool = True
) -> tuple[bytes, tuple[int, int]]:
  """Reads an image file as encoded RGB, checking that it decodes completely.

  JPEG and PNG files that are RGB of 8 bits and upright keep their bytes. Any
  other file is converted to RGB and encoded as PNG: grey images repeat their
  channel, transparency is dropped.

  Args:
    path: the file.
    upright: apply an EXIF orientation; False for published data sets, whose
      masks are drawn over the stored pixels.

  Returns:
    Bytes of a JPEG or PNG file, and the image's (H, W).

  Raises:
    ValueError: the file is damaged or too large, or has more than 8 bits per
      channel.
  """
  if is_read_as_array(path, image_format.RGB):
    pixels = image_files.read_array(path, image_format.RGB)
    return encode_png(pixels), pixels.shape[:2]
  data, image, orientation = decode_image(path)
  orientation = orientation if upright else 1
  keep = orientation == 1
  keep &= image.mode == 'RGB' and 'transparency' not in image.info
  # Bytes 24 and 25 of a PNG file are its bit depth and its color type.
  keep &= image.format == 'JPEG' or (
    image.format == 'PNG' and data[24:26] == b'\x08\x02'
  )
  if keep:
    return data, (image.height, image.width)
  pixels = image_files.to_rgb_array(image)
  pixels = image_files.turn_upright(pixels, orientation)
  return encode_png(pixels), pixels.shape[:2]


def read_pixels(
  path: pathlib.Path, spec: image_format.ImageSpec = image_format.RGB
) -> np.ndarray:
  """Reads an image file to an array, upright.

  Training, the doctor and prediction see these pixels.

  Args:
    path: the file.
    spec: the expected channels and depth.

  Returns:
    [H, W, C] uint8 or uint16.

  Raises:
    ValueError: the file is damaged or too large, or has other channels or
      another depth.
  """
  if is_read_as_array(path, spec):
    return image_files.read_array(path, spec)
  _, image, orientation = decode_image(path)
  with image_files.explain_errors(path):  # PIL converts some kinds only here
    pixels = image_files.to_rgb_array(image)
  return image_files.turn_upright(pixels, orientation)
