"""Opens image files, whose size is checked before a pixel is decoded.

Every error is an `ImageFileError`, one sentence that begins with the file:
decoders raise many types for damaged files, and a small file can promise more
pixels than the memory holds ("decompression bomb").
"""

from collections.abc import Iterator
import contextlib
import io
import logging
import math
import os
import pathlib
from typing import IO
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags
from PIL import Image
from PIL import UnidentifiedImageError
import tifffile

from deeplab.data import image_format

# The largest decoded image and the largest file: 512 MiB, which is 179 million
# pixels of 8-bit RGB. There PIL refuses an image, too.
MAX_IMAGE_BYTES = 2**29

# The longest side: libpng, which writes the records, refuses longer ones.
MAX_IMAGE_SIDE = 1_000_000

# Rows that are converted to RGB at a time.
_STRIP_ROWS = 256

# Pages of a TIFF file; some programs write one for each channel.
_MAX_PAGES = 1024

# PIL's formats that are opened, whatever a file's suffix. PIL knows others, and
# hands some of them (EPS) to other programs.
_FORMATS = (
  *('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP'),
)

# Formats whose files may hold several pictures of their own. The second one of
# a phone's JPEG (MPO) is a map of depth or brightness.
_PAGED_FORMATS = frozenset({'AVIF', 'GIF', 'PNG', 'TIFF', 'WEBP'})

# By EXIF orientation, how stored pixels become upright: rows and columns are
# exchanged, then the order of rows and of columns is reversed (TIFF 6.0, p.36).
_TURNS = {
  1: (False, False, False),
  2: (False, False, True),
  3: (False, True, True),
  4: (False, True, False),
  5: (True, False, False),
  6: (True, False, True),
  7: (True, True, True),
  8: (True, True, False),
}

_TIFF_SUFFIXES = '.tif', '.tiff'

# Compressions of TIFF whose segments are as long as the header says.
_STREAM_COMPRESSIONS = frozenset(
  {
    *(tifffile.COMPRESSION.NONE, tifffile.COMPRESSION.LZW),
    *(tifffile.COMPRESSION.ADOBE_DEFLATE, tifffile.COMPRESSION.DEFLATE),
    *(tifffile.COMPRESSION.PACKBITS, tifffile.COMPRESSION.LZMA),
    tifffile.COMPRESSION.ZSTD,
  }
)
# Compressions whose segments are images with a size of their own, which PIL
# reads.
_IMAGE_COMPRESSIONS = frozenset(
  {
    *(tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.WEBP),
    *(tifffile.COMPRESSION.JPEG2000, tifffile.COMPRESSION.APERIO_JP2000_RGB),
    tifffile.COMPRESSION.APERIO_JP2000_YCBC,
  }
)

# tifffile logs each oddity of a damaged file before it raises.
logging.getLogger('tifffile').setLevel(logging.CRITICAL)


class ImageFileError(ValueError):
  """An image file is damaged, too large, or of an unknown format."""


@contextlib.contextmanager
def explain_errors(name: str | os.PathLike[str]) -> Iterator[None]:
  """Turns the errors of decoders into one that begins with the file.

  Args:
    name: the file, or what stands for it in the message.

  Raises:
    ImageFileError: for any error in the block.
  """
  try:
    yield
  except ImageFileError:
    raise
  except Image.DecompressionBombError as error:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    raise ImageFileError(
      f'{name}: the image has more than {limit:.0f} million pixels; cut it and '
      'its mask into tiles'
    ) from error
  except (
    Exception
  ) as error:  # zlib.error, struct.error, cv2.error, TypeError...
    raise ImageFileError(
      f'{name}: damaged or not an image ({_describe_error(error)}); replace '
      'the file, or remove both image and mask'
    ) from error


def _describe_error(error: Exception) -> str:
  """Returns the reason in at most 200 characters of one line."""
  if isinstance(error, UnidentifiedImageError):
    # Pillow's own text names an object in memory.
    return 'of an unknown format'
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  lines = str(error).split('\n')
  return lines[0][:200] or type(error).__name__


def check_size(
  name: str | os.PathLike[str],
  size: tuple[int, int],
  channels: int = 1,
  channel_bytes: int = 1,
) -> None:
  """Checks the size that a file promises.

  Args:
    name: the file, or what stands for it in the message.
    size: (H, W).
    channels: number of channels.
    channel_bytes: bytes of each channel.

  Raises:
    ImageFileError: the image has no pixels, more than `MAX_IMAGE_BYTES`, or a
      side above `MAX_IMAGE_SIDE`.
  """
  height, width = size
  if min(height, width, channels) < 1:
    raise ImageFileError(
      f'{name}: an image of {width}x{height} pixels and {channels} channels '
      'has no pixels; replace the file, or remove both image and mask'
    )
  if max(height, width) > MAX_IMAGE_SIDE:
    raise ImageFileError(
      f'{name}: an image of {width}x{height} pixels has a side of more than '
      f'{MAX_IMAGE_SIDE}; cut it and its mask into tiles'
    )
  total = height * width * channels * channel_bytes
  if total > MAX_IMAGE_BYTES:
    raise ImageFileError(
      f'{name}: an image of {width}x{height} pixels, {channels} channels of '
      f'{8 * channel_bytes} bits, takes {total / 2**20:.0f} MiB, more than '
      f'{MAX_IMAGE_BYTES >> 20}; cut it and its mask into tiles'
    )


def read_bytes(path: pathlib.Path) -> bytes:
  """Reads a file that holds an image.

  Raises:
    ImageFileError: the file cannot be read or is too large.
  """
  _check_file(path)
  with explain_errors(path):
    return path.read_bytes()


def _check_file(path: pathlib.Path) -> None:
  """Raises ImageFileError for a folder, a pipe, or a file that is too large."""
  if not os.path.isfile(path):
    kind = 'a folder or a device' if os.path.exists(path) else 'absent'
    raise ImageFileError(f'{path}: not an image file, but {kind}; replace it')
  length = path.stat().st_size
  if length > MAX_IMAGE_BYTES:
    raise ImageFileError(
      f'{path}: a file of {length / 2**20:.0f} MiB, more than '
      f'{MAX_IMAGE_BYTES >> 20}; cut the image and its mask into tiles'
    )


@contextlib.contextmanager
def open_image(
  name: str | os.PathLike[str], data: bytes | None = None
) -> Iterator[Image.Image]:
  """Opens an image with PIL; pixels are decoded when they are first used.

  Args:
    name: the image file.
    data: its bytes, if they were read already; `name` then stands for them in
      messages.

  Yields:
    The image, whose size has been checked.

  Raises:
    ImageFileError: the image is too large or of an unknown format, has several
      pages, or anything fails in the block.
  """
  if data is None:
    _check_file(pathlib.Path(name))
  # Of a TIFF that is opened by name, PIL maps the pixels into memory, with
  # height and width exchanged if its orientation exchanges them.
  with (
    explain_errors(name),
    open(name, 'rb') if data is None else io.BytesIO(data) as source,
    Image.open(source, formats=_FORMATS) as image,
  ):
    size, bands = (image.height, image.width), len(image.getbands())
    if image.mode[0] in 'IF':  # integers of 16 or 32 bits, floats
      check_size(name, size, bands, 2 if ';16' in image.mode else 4)
    else:  # becomes RGB
      check_size(name, size, max(3, bands))
    if image.format in _PAGED_FORMATS:
      _refuse_pages(name, _count_pages(image, source))
    yield image


def _count_pages(image: Image.Image, source: IO[bytes]) -> int:
  """Returns the number of pictures, without smaller copies and masks of one.

  Args:
    image: the opened image.
    source: its file.
  """
  if image.format != 'TIFF':
    return getattr(image, 'n_frames', 1)
  position = source.tell()
  source.seek(0)
  with tifffile.TiffFile(source, _multifile=False) as file:  # type: ignore[arg-type]
    count = _count_tiff_pages(file)
  source.seek(position)
  return count


def _count_tiff_pages(file: tifffile.TiffFile) -> int:
  keyframes: Any = (page.keyframe for page in file.pages)
  return sum(not _is_secondary(x.subfiletype) for x in keyframes)


def _is_secondary(kind: int) -> bool:
  """Returns True for the NewSubfileType of a smaller copy or of a mask."""
  return bool(kind & 0b101)


def _refuse_pages(name: str | os.PathLike[str], count: int) -> None:
  """Raises ImageFileError for an image of several pages."""
  if count > 1:
    raise ImageFileError(
      f'{name}: {count} pages (or frames), of which only one can have a mask; '
      'save each page as a file of its own'
    )


def get_orientation(image: Image.Image) -> int:
  """Returns the EXIF orientation of an opened image, 1 (upright) to 8.

  Ask before the pixels are decoded: PIL removes the tag of a TIFF, which it
  turns itself. A damaged or impossible tag counts as none, as in viewers.
  """
  if image.format == 'PNG' and not {'exif', 'xmp'} & image.info.keys():
    return 1  # PIL would decode the pixels, to look behind them
  try:
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # struct.error, SyntaxError, OSError...
    return 1
  return value if value in _TURNS else 1


def read_orientation(path: pathlib.Path) -> int:
  """Returns the EXIF orientation of an image file, from its header.

  Raises:
    ImageFileError: the file is damaged, too large, or of an unknown format.
  """
  suffix = path.suffix.lower()
  if suffix == '.npy':
    return 1
  if suffix in _TIFF_SUFFIXES:  # PIL does not know all of them
    with explain_errors(path), _open_tiff(path) as file:
      return _tiff_orientation(file)
  with open_image(path) as image:
    return get_orientation(image)


def read_size(path: pathlib.Path) -> tuple[int, int]:
  """Returns the (H, W) of the upright image of a file, from its header.

  Raises:
    ImageFileError: the file is damaged, too large, or of an unknown format.
  """
  if path.suffix.lower() == '.npy':
    height, width = read_npy(path).shape[:2]
    return height, width
  if path.suffix.lower() in _TIFF_SUFFIXES:
    with explain_errors(path), _open_tiff(path) as file:
      first: Any = file.pages.first
      size = first.imagelength, first.imagewidth
      return stored_size(size, _tiff_orientation(file))
  with open_image(path) as image:
    size = image.height, image.width
    return stored_size(size, get_orientation(image))


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Turns stored pixels as an EXIF orientation says.

  Args:
    pixels: [H, W, ...].
    orientation: 1 to 8.

  Returns:
    [H, W, ...], or [W, H, ...] for orientations 5 to 8.
  """
  exchanged, rows_reversed, columns_reversed = _TURNS[orientation]
  if exchanged:
    pixels = pixels.swapaxes(0, 1)
  if rows_reversed:
    pixels = pixels[::-1]
  if columns_reversed:
    pixels = pixels[:, ::-1]
  return np.ascontiguousarray(pixels)


def stored_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
  """Returns the (H, W) of stored pixels from that of the upright image."""
  return size[::-1] if _TURNS[orientation][0] else size


def to_rgb_array(image: Image.Image) -> np.ndarray:
  """Converts an image to RGB, a strip at a time.

  Of a large image PIL's own conversion holds four copies.

  Args:
    image: of any mode that PIL converts to RGB.

  Returns:
    uint8 [H, W, 3].
  """
  width, height = image.size
  pixels = np.empty((height, width, 3), np.uint8)
  for top in range(0, height, _STRIP_ROWS):
    bottom = min(top + _STRIP_ROWS, height)
    strip = image.crop((0, top, width, bottom))
    pixels[top:bottom] = np.asarray(strip.convert('RGB'))
  return pixels


def read_array(path: pathlib.Path, spec: image_format.ImageSpec) -> np.ndarray:
  """Reads an image of any number of channels, of 8 or 16 bits, upright.

  TIFF and NumPy (.npy, [H, W] or [H, W, C]) files may have any number of
  channels; an alpha channel of a TIFF counts as one. A TIFF is not compressed,
  or by LZW, Deflate, Zstandard, LZMA, PackBits, JPEG, JPEG 2000 or WebP.

  Args:
    path: the file.
    spec: the expected channels and depth.

  Returns:
    [H, W, C] with the channels and dtype of `spec`. If it has three channels, a
    grey image repeats its one channel.

  Raises:
    ValueError: the file is damaged or too large, or has other channels or
      another depth.
  """
  _check_file(path)
  suffix = path.suffix.lower()
  with explain_errors(path):
    if suffix == '.npy':
      image = read_npy(path)
    elif suffix in _TIFF_SUFFIXES:
      image = _read_tiff(path)
    else:
      image = _read_encoded(path)
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


def _check_shape(
  path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype
) -> None:
  """Checks the shape of an array of two or three axes, in any order."""
  height, width = (*shape, 1, 1)[:2]
  check_size(path, (height, width), math.prod(shape[2:]), dtype.itemsize)


def read_npy(path: pathlib.Path) -> np.ndarray:
  """Reads a NumPy array, [H, W] or [H, W, C] of any type.

  A mapped file takes no memory before it is checked.

  Raises:
    ImageFileError: the file is damaged, too large, or holds Python objects.
  """
  _check_file(path)
  with explain_errors(path):
    mapped = np.load(path, mmap_mode='r', allow_pickle=False)
    if not isinstance(mapped, np.ndarray):
      raise TypeError('an archive, not an array')
    _check_shape(path, mapped.shape, mapped.dtype)
    return np.array(mapped)


def is_lossless_webp(path: pathlib.Path) -> bool:
  """Returns True for a WebP file without a lossy picture in it.

  Chunks follow a header of 12 bytes: a name, the length, the content, padded to
  an even length (https://developers.google.com/speed/webp/docs/riff_container).
  """
  data, start = read_bytes(path), 12
  while start + 8 <= len(data):
    if data[start : start + 4] == b'VP8 ':
      return False
    length = int.from_bytes(data[start + 4 : start + 8], 'little')
    start += 8 + length + length % 2
  return True


def _read_tiff(path: pathlib.Path) -> np.ndarray:
  """Reads the image of a TIFF file."""
  with _open_tiff(path) as file:
    series = file.series[0]
    _check_shape(path, series.shape, series.dtype)
    for page in series.pages:
      if page is not None:
        _check_segments(path, file, page)
    image, axes = series.asarray(), series.axes
    orientation = _tiff_orientation(file)
  if axes.endswith('YX') and image.ndim == 3:  # stored as [C, H, W]
    image = np.moveaxis(image, 0, -1)
  return turn_upright(image, orientation)


@contextlib.contextmanager
def _open_tiff(path: pathlib.Path) -> Iterator[tifffile.TiffFile]:
  """Opens a TIFF file of one image, and no other file that it names."""
  with tifffile.TiffFile(path, _multifile=False) as file:
    _check_page_count(path, file)
    first = file.pages.first
    check_size(path, (first.imagelength, first.imagewidth))
    pages = _count_tiff_pages(file)
    series = file.series[0]
    if series.ndim != 3 or len(series.pages) < pages:  # not one a channel
      _refuse_pages(path, pages)
    yield file


def _tiff_orientation(file: tifffile.TiffFile) -> int:
  value = file.pages.first.tags.valueof(ExifTags.Base.Orientation, 1)
  return value if value in _TURNS else 1


def _check_page_count(path: pathlib.Path, file: tifffile.TiffFile) -> None:
  """Refuses a file whose chain of pages is long, or a circle without end."""
  with contextlib.suppress(IndexError):
    file.pages[_MAX_PAGES]
    raise ImageFileError(
      f'{path}: damaged, or of more than {_MAX_PAGES} pages; convert the image '
      'to one page'
    )


def _check_segments(
  path: pathlib.Path, file: tifffile.TiffFile, page: Any
) -> None:
  """Checks what the tiles or strips of a page take when they are decoded."""
  keyframe = page.keyframe
  height, width = keyframe.imagelength, keyframe.imagewidth
  if keyframe.is_tiled:
    height, width = keyframe.tilelength, keyframe.tilewidth
    chunk_bytes = math.prod(keyframe.chunks) * keyframe.dtype.itemsize
    # The last tiles reach beyond the image.
    if math.prod(keyframe.chunked) * chunk_bytes > 2 * MAX_IMAGE_BYTES:
      raise ImageFileError(
        f'{path}: tiles of {width}x{height} pixels are too large; convert the '
        'image to smaller tiles'
      )
  compression = keyframe.compression
  if compression in _STREAM_COMPRESSIONS:
    return
  if compression not in _IMAGE_COMPRESSIONS:
    known = tifffile.COMPRESSION(compression).name
    raise ImageFileError(
      f'{path}: compression {known} is not supported; convert the image to '
      'Deflate, LZW or Zstandard'
    )
  for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
    if not length:
      continue
    file.filehandle.seek(offset)
    segment = file.filehandle.read(min(length, path.stat().st_size))
    with Image.open(io.BytesIO(segment), formats=_FORMATS) as image:
      if image.height > height or image.width > width:
        raise ValueError(
          f'a segment of {image.width}x{image.height} pixels in place of '
          f'{width}x{height}'
        )


def _read_encoded(path: pathlib.Path) -> np.ndarray:
  """Reads a PNG or another file that OpenCV decodes, of 8 or 16 bits."""
  data = read_bytes(path)
  with open_image(path, data) as header:
    channels = len(header.getbands())
    check_size(path, (header.height, header.width), channels, 2)
    orientation = get_orientation(header)
    header.load()  # raises if truncated; OpenCV would return half the image
  image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
  if image is None:
    raise TypeError('of a kind that OpenCV cannot decode')
  if image.ndim == 3:
    image = image[..., [2, 1, 0, 3][: image.shape[2]]]
  return turn_upright(image, orientation)
