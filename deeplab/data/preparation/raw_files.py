"""Reads image and mask files.

Masks are read as stored. Most of them are palette PNGs, and a decoder that
converts the palette's colors to grey would read VOC's ids 0, 20, 255 as 0, 52,
220.
"""

import pathlib

import cv2
import numpy as np
from PIL import Image

from deeplab.data import dataset_info
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


def decode_image(path: pathlib.Path) -> tuple[bytes, Image.Image]:
  """Reads an image file and decodes it completely.

  Returns:
    The file's bytes, and the decoded image in a mode that converts to RGB.

  Raises:
    ValueError: the file is damaged or too large, or has more than 8 bits per
      channel.
  """
  data = image_files.read_bytes(path)
  with image_files.open_image(path, data) as image:
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
  return data, image


def is_read_as_array(path: pathlib.Path, spec: image_format.ImageSpec) -> bool:
  """Returns True if `image_files.read_array` reads the image.

  Other images are RGB of 8 bits, which keep their encoded bytes.
  """
  return spec != image_format.RGB or path.suffix.lower() == '.npy'


def read_encoded_image(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
  """Reads an image file as encoded RGB, checking that it decodes completely.

  JPEG and PNG files that are RGB of 8 bits keep their bytes. Any other file is
  converted to RGB and encoded as PNG: grey images repeat their channel,
  transparency is dropped. An EXIF orientation tag is not applied, because masks
  are drawn over the stored pixels.

  Returns:
    Bytes of a JPEG or PNG file, and the image's (H, W).

  Raises:
    ValueError: the file is damaged or too large, or has more than 8 bits per
      channel.
  """
  if is_read_as_array(path, image_format.RGB):
    pixels = image_files.read_array(path, image_format.RGB)
    return encode_png(pixels), pixels.shape[:2]
  data, image = decode_image(path)
  keep = image.mode == 'RGB' and 'transparency' not in image.info
  # Bytes 24 and 25 of a PNG file are its bit depth and its color type.
  keep &= image.format == 'JPEG' or (
    image.format == 'PNG' and data[24:26] == b'\x08\x02'
  )
  if not keep:
    data = encode_png(image_files.to_rgb_array(image))
  return data, (image.height, image.width)


def read_mask(path: pathlib.Path) -> np.ndarray:
  """Reads a mask without converting its values.

  Returns:
    [H, W] ids of a palette (indices, not colors), grey or 16-bit image, or
    [H, W, 3] uint8 colors of an RGB image. An alpha channel is dropped.

  Raises:
    ValueError: the file is damaged or too large, a JPEG, or of another mode.
  """
  with image_files.open_image(path) as image:
    mode, kind = image.mode, image.format
    mask = np.asarray(image)
  if kind == 'JPEG':
    raise ValueError(
      f'{path}: the mask is a JPEG, whose compression changes ids; export it '
      'as PNG from the tool that it was drawn with'
    )
  if mode in ('LA', 'RGBA'):
    mask = mask[..., 0] if mode == 'LA' else mask[..., :3]
  elif mode not in ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'RGB'):
    raise ValueError(
      f'{path}: mask of mode {mode}; save class ids in one channel, or RGB '
      'colors'
    )
  return mask.astype(np.uint8) if mask.dtype == np.bool_ else mask


def read_pixels(
  path: pathlib.Path, spec: image_format.ImageSpec = image_format.RGB
) -> np.ndarray:
  """Reads an image file to an array.

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
  return image_files.to_rgb_array(decode_image(path)[1])


def colors_to_train_ids(
  mask: np.ndarray,
  info: dataset_info.DatasetInfo,
  max_unknown_share: float = 0.0,
) -> np.ndarray:
  """Converts an RGB mask to train ids by the palette of a data set.

  Args:
    mask: [H, W, 3] uint8.
    info: gives palette and ignored color.
    max_unknown_share: share of pixels that may have colors outside the
      palette; they become IGNORE.

  Returns:
    [H, W] uint8 train ids or IGNORE.

  Raises:
    ValueError: a larger share of pixels has colors outside the palette, or two
      entries of the palette are the same color.
  """
  ids = np.full(mask.shape[:2], dataset_info.IGNORE, np.uint8)
  pixels = _pack_colors(mask)
  codes = _pack_colors(np.array([info.palette], np.uint8))[0].tolist()
  ignored = []
  if info.ignore_color:
    ignored = _pack_colors(np.array([[info.ignore_color]], np.uint8))[0]
    ignored = ignored.tolist()
  if len({*codes, *ignored}) < len(codes) + len(ignored):
    raise ValueError('two entries of the color map are the same color')
  for i, code in enumerate(codes):
    ids[pixels == code] = i
  unknown = ids == dataset_info.IGNORE
  for code in ignored:
    unknown &= pixels != code
  count = np.count_nonzero(unknown)
  if count > max_unknown_share * unknown.size:
    y, x = np.unravel_index(unknown.argmax(), unknown.shape)
    raise ValueError(
      f'color {tuple(mask[y, x].tolist())} at row {y}, column {x} (and '
      f'{count - 1} more pixels) is not in the color map of '
      f'{len(codes) + len(ignored)} colors: set config.data.color_map or '
      'correct the mask'
    )
  return ids


def _pack_colors(colors: np.ndarray) -> np.ndarray:
  """Packs colors [..., 3] uint8 into numbers [...] uint32, 0xRRGGBB."""
  codes = colors[..., 0].astype(np.uint32)
  for channel in (1, 2):
    codes = codes << 8 | colors[..., channel]
  return codes
