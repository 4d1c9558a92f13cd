"""Raw files: images and annotations as they were drawn or shot.

Masks are read as they are stored: most of them are palette PNGs, and a decoder
that turns the palette's colours to grey reads VOC's ids 0, 20, 255 as 0, 52,
220.
"""

import io
import pathlib
from typing import Any

import cv2
import numpy as np
from PIL import Image

from deeplab.data import dataset_info
from deeplab.data import image_format

# Modes of images with 8 bits a channel, which PIL turns to RGB faithfully.
_IMAGE_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')


def encode_png(pixels: np.ndarray) -> bytes:
  """Encodes [H, W] ids or an [H, W, 3] RGB image, uint8, without loss."""
  if pixels.ndim == 3:
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
  # What OpenCV writes if it is not told is larger, and takes half as long
  # again to decode, which every epoch does.
  options = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 6),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
  )
  _, data = cv2.imencode('.png', pixels, options)
  return data.tobytes()


def decode_image(path: pathlib.Path) -> tuple[bytes, Image.Image]:
  """Reads an image file and decodes it to its end.

  Returns:
    The file's bytes, and the decoded image, of a mode that turns to RGB.

  Raises:
    ValueError: the file is damaged, or has more than 8 bits a channel.
  """
  data = path.read_bytes()
  image: Any
  try:
    image = Image.open(io.BytesIO(data))
    image.load()
  except Image.DecompressionBombError as error:
    raise image_format.too_large_error(path) from error
  except (OSError, SyntaxError, ValueError) as error:
    raise image_format.damaged_file_error(path, error) from error
  # PIL drops the lower bytes of what has 16 bits, without a word.
  depths = image.tag_v2.get(258, (8,)) if image.format == 'TIFF' else (8,)
  deep = max(depths) > 8 or (image.format == 'PNG' and data[24] > 8)
  if deep or image.mode not in _IMAGE_MODES:
    raise ValueError(
      f'{path}: image of mode {image.mode}{" of 16 bits" if deep else ""}; '
      'convert it to 8 bits a channel, or set config.data.depth=16, and '
      'config.data.mean and std in its units'
    )
  return data, image


def is_read_as_array(path: pathlib.Path, spec: image_format.ImageSpec) -> bool:
  """Returns whether an image is read as numbers alone, by `bands.read`."""
  return spec != image_format.RGB or path.suffix.lower() == '.npy'


def read_encoded_image(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
  """Reads an image file of RGB, checking that it decodes to its end.

  JPEG and PNG files that are RGB of 8 bits keep their bytes. Everything else
  is turned to RGB and encoded as PNG: grey images repeat their channel,
  transparency is dropped. An orientation tag is not applied, so an image stays
  as its mask was drawn.

  Returns:
    An encoded file, and the image's (H, W).

  Raises:
    ValueError: as `decode_image`, or as `bands.read`.
  """
  if is_read_as_array(path, image_format.RGB):
    pixels = image_format.read_array(path, image_format.RGB)
    return encode_png(pixels), pixels.shape[:2]
  data, image = decode_image(path)
  keep = image.mode == 'RGB' and 'transparency' not in image.info
  # Bit depth and colour type stand at these places of a PNG file.
  keep &= image.format == 'JPEG' or (
    image.format == 'PNG' and data[24:26] == b'\x08\x02'
  )
  if not keep:
    data = encode_png(np.asarray(image.convert('RGB')))
  return data, (image.height, image.width)


def read_mask(path: pathlib.Path) -> np.ndarray:
  """Reads an annotation file as it is stored.

  Returns:
    [H, W] ids of an index, palette (the index, not its colour), grey or
    16-bit image, or [H, W, 3] uint8 colours of an RGB one.

  Raises:
    ValueError: the file is damaged, a JPEG, or of another kind.
  """
  try:
    with Image.open(path) as image:
      mode, kind = image.mode, image.format
      mask = np.asarray(image)
  except Image.DecompressionBombError as error:
    raise image_format.too_large_error(path) from error
  except (OSError, SyntaxError, ValueError) as error:
    raise image_format.damaged_file_error(path, error) from error
  if kind == 'JPEG':
    raise ValueError(
      f'{path}: a JPEG mask, whose ids the compression has changed; save masks '
      'as PNG from where they were drawn'
    )
  if mode in ('LA', 'RGBA'):
    mask = mask[..., 0] if mode == 'LA' else mask[..., :3]
  elif mode not in ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'RGB'):
    raise ValueError(
      f'{path}: mask of mode {mode}; save class ids in one channel, or RGB '
      'colours'
    )
  return mask.astype(np.uint8) if mask.dtype == np.bool_ else mask


def read_pixels(
  path: pathlib.Path, spec: image_format.ImageSpec = image_format.RGB
) -> np.ndarray:
  """Reads an image file into [H, W, C].

  Args:
    path: the file.
    spec: the C channels and their depth.

  Raises:
    ValueError: as `decode_image`, or as `bands.read`.
  """
  if is_read_as_array(path, spec):
    return image_format.read_array(path, spec)
  return np.asarray(decode_image(path)[1].convert('RGB'))


def colors_to_train_ids(
  mask: np.ndarray,
  info: dataset_info.DatasetInfo,
  max_unknown_share: float = 0.0,
) -> np.ndarray:
  """Turns a mask of the palette's colours into train ids.

  Args:
    mask: [H, W, 3] uint8.
    info: the data set.
    max_unknown_share: share of the pixels that may have other colours; they
      become IGNORE.

  Returns:
    [H, W] uint8.

  Raises:
    ValueError: more pixels than that have a colour that is not in the palette.
  """
  ids = np.full(mask.shape[:2], dataset_info.IGNORE, np.uint8)
  pixels = _pack_colors(mask)
  codes = _pack_colors(np.array([info.palette], np.uint8))[0].tolist()
  ignored = []
  if info.ignore_color:
    ignored = _pack_colors(np.array([[info.ignore_color]], np.uint8))[0]
    ignored = ignored.tolist()
  if len({*codes, *ignored}) < len(codes) + len(ignored):
    raise ValueError('two entries of the colour map are the same colour')
  for i, code in enumerate(codes):
    ids[pixels == code] = i
  wrong = ids == dataset_info.IGNORE
  for code in ignored:
    wrong &= pixels != code
  count = np.count_nonzero(wrong)
  if count > max_unknown_share * wrong.size:
    y, x = np.unravel_index(wrong.argmax(), wrong.shape)
    raise ValueError(
      f'colour {tuple(mask[y, x].tolist())} at row {y}, column {x} (and '
      f'{count - 1} more pixels) is not in the colour map of '
      f'{len(codes) + len(ignored)} colours: set config.data.color_map or '
      'correct the mask'
    )
  return ids


def _pack_colors(colors: np.ndarray) -> np.ndarray:
  """Returns one number a colour: [..., 3] uint8 to [...] uint32."""
  codes = colors[..., 0].astype(np.uint32)
  for channel in (1, 2):
    codes = codes << 8 | colors[..., channel]
  return codes
