"""What the builders share: reading raw files, and the prepared record.

A prepared example holds the image as an encoded file, the label as a PNG that
is encoded here from decoded train ids, and a name. Label files never go into
a record as they are: most of them are palette PNGs, and a decoder that turns
the palette's colours to grey reads VOC's ids 0, 20, 255 as 0, 52, 220.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import hashlib
import io
import os
import pathlib
import re
from typing import Any

import cv2
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds
import tqdm

from deeplab.data import info as info_lib

# The tfds name of the one split that a builder prepares. The configs' own names
# of splits stand in the builder's config: tfds refuses some, such as 'all'.
SPLIT = 'examples'

# Modes of images with 8 bits a channel, which PIL turns to RGB faithfully.
_IMAGE_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')


def features() -> tfds.features.FeaturesDict:
  """Returns the features of every prepared data set in here."""
  return tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(None, None, 3)),
      'label': tfds.features.Image(
        shape=(None, None, 1), encoding_format='png'
      ),
      'name': tfds.features.Text(),
    }
  )


def builder_info(
  builder: tfds.core.DatasetBuilder, description: str, homepage: str = ''
) -> tfds.core.DatasetInfo:
  """Returns what tfds asks of every builder in here."""
  return tfds.core.DatasetInfo(
    builder=builder,
    description=description,
    homepage=homepage or None,
    features=features(),
    disable_shuffling=True,
  )


def progress(items: Sequence[Any], what: str) -> Iterable[Any]:
  """Iterates over items; on a terminal, shows a bar with rate and ETA."""
  return tqdm.tqdm(
    items, desc=f'Preparing {what}', unit=' examples', disable=None
  )


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


def source(builder: tfds.core.DatasetBuilder) -> Sequence[Any]:
  """Returns a prepared split's records, images and labels still encoded."""
  skip = tfds.decode.SkipDecoding()
  return builder.as_data_source(SPLIT, decoders={'image': skip, 'label': skip})


def decode_rgb(data: bytes) -> np.ndarray:
  """Decodes a record's image, uint8 [H, W, 3], as it is stored.

  tfds decodes to the same pixels, in two passes more.

  Raises:
    ValueError: the prepared data is damaged.
  """
  return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_label(data: bytes) -> np.ndarray:
  """Decodes a record's label, uint8 [H, W] train ids or IGNORE.

  Raises:
    ValueError: the prepared data is damaged.
  """
  return _decode(data, cv2.IMREAD_GRAYSCALE)


def _decode(data: bytes, flags: int) -> np.ndarray:
  pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  if pixels is None:
    raise ValueError(
      'a prepared example does not decode: remove its folder below '
      'config.data.data_dir, to have it prepared again'
    )
  return pixels


def _too_large(path: pathlib.Path) -> ValueError:
  """Returns the error of an image that PIL takes for an attack."""
  limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
  return ValueError(
    f'{path}: an image of more than {limit:.0f} million pixels; cut it and its '
    'mask into tiles'
  )


def decode_image(path: pathlib.Path) -> tuple[bytes, Image.Image]:
  """Reads an image file and decodes it to its end.

  Returns:
    The file's bytes, and the decoded image, of a mode that turns to RGB.

  Raises:
    ValueError: the file is damaged, or has more than 8 bits a channel.
  """
  data = path.read_bytes()
  try:
    image = Image.open(io.BytesIO(data))
    image.load()
  except Image.DecompressionBombError as error:
    raise _too_large(path) from error
  except (OSError, SyntaxError, ValueError) as error:
    raise ValueError(
      f'{path}: damaged or no image ({error}); replace the file, or remove it '
      'together with its mask'
    ) from error
  if image.mode not in _IMAGE_MODES:
    raise ValueError(
      f'{path}: image of mode {image.mode}; convert it to 8 bits a channel'
    )
  return data, image


def read_image(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
  """Reads an image file, checking that it decodes to its end.

  JPEG and PNG files that are RGB of 8 bits keep their bytes. Everything else
  is turned to RGB and encoded as PNG: grey images repeat their channel,
  transparency is dropped. An orientation tag is not applied, so an image stays
  as its mask was drawn.

  Returns:
    An encoded file, and the image's (H, W).

  Raises:
    ValueError: as `decode_image`.
  """
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
    raise _too_large(path) from error
  except (OSError, SyntaxError, ValueError) as error:
    raise ValueError(
      f'{path}: damaged or no image ({error}); replace the mask, or remove it '
      'together with its image'
    ) from error
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


def color_ids(mask: np.ndarray, info: info_lib.DatasetInfo) -> np.ndarray:
  """Turns an [H, W, 3] mask of the palette's colours into [H, W] train ids.

  Raises:
    ValueError: a colour that is not in the palette.
  """
  colors = [*info.palette, *([info.ignore_color] if info.ignore_color else [])]
  ids = np.arange(len(colors), dtype=np.uint8)
  ids[info.num_classes :] = info_lib.IGNORE
  shifts = np.array((16, 8, 0))
  codes = (np.asarray(colors) << shifts).sum(-1)
  if len(set(codes.tolist())) < len(colors):
    raise ValueError('two entries of the colour map are the same colour')
  order = np.argsort(codes)
  pixels = (mask.astype(np.int64) << shifts).sum(-1)
  found = order[
    np.searchsorted(codes, pixels, sorter=order).clip(max=len(codes) - 1)
  ]
  wrong = np.argwhere(codes[found] != pixels)
  if len(wrong):
    y, x = wrong[0].tolist()
    raise ValueError(
      f'colour {tuple(mask[y, x].tolist())} at row {y}, column {x} (and '
      f'{len(wrong) - 1} more pixels) is not in the colour map of '
      f'{len(colors)} colours: set config.data.color_map or correct the mask'
    )
  return ids[found]


def example(
  image_path: pathlib.Path,
  mask_path: pathlib.Path,
  name: str,
  info: info_lib.DatasetInfo,
  read: Callable[[pathlib.Path], np.ndarray] = read_mask,
) -> dict[str, Any]:
  """Reads one pair of files into a record.

  Args:
    image_path: the image.
    mask_path: its annotation.
    name: the example's name.
    info: facts about the data set.
    read: reads annotation files that are no images.

  Raises:
    ValueError: a file is damaged, sizes differ, or a label value or colour is
      not the data set's; the message begins with the file.
  """
  image, size = read_image(image_path)
  mask = read(mask_path)
  if mask.shape[:2] != size:
    turned = mask.shape[1::-1] == size
    raise ValueError(
      f'{mask_path}: mask of {mask.shape[1]}x{mask.shape[0]} pixels for an '
      f'image of {size[1]}x{size[0]} ({image_path}); they must agree'
      + ('; save the image upright, without an EXIF tag' if turned else '')
    )
  try:
    if mask.ndim == 3:
      label = color_ids(mask, info)
    else:
      label = info_lib.train_ids(mask, info)
  except ValueError as error:
    raise ValueError(f'{mask_path}: {error}') from error
  return {'image': image, 'label': encode_png(label), 'name': name}


def fingerprint(
  split: str, paths: Iterable[pathlib.Path], facts: info_lib.DatasetInfo
) -> str:
  """Returns the split and 12 hex digits that change with any file or fact.

  Args:
    split: name of the split.
    paths: files; names, sizes and modification times count.
    facts: how the files are read.
  """
  digest = hashlib.sha256(repr((split, facts)).encode())
  for path in paths:
    stat = os.stat(path)
    digest.update(f'{path}|{stat.st_size}|{stat.st_mtime_ns}\n'.encode())
  return re.sub(r'\W', '_', split) + '_' + digest.hexdigest()[:12]
