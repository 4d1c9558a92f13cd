"""Decodes the images and labels of prepared records, in whole or in part."""

import struct

import cv2
import numpy as np

# A window of a JPEG is decoded alone only if that saves at least this many
# pixels and half of the image; otherwise decoding all of it is as fast.
_MIN_SAVED_PIXELS = 2**18
# Rows and columns decoded around a window, in pixels. JPEG stores chroma at
# half resolution, and upsampling interpolates from neighbors outside the
# window.
_MARGIN = 16

_DAMAGED = (
  'a prepared example does not decode: remove its data set below '
  'config.data.data_dir, so that it is prepared again'
)


def decode_image(data: bytes | np.ndarray) -> np.ndarray:
  """Decodes the image of a record.

  tfds decodes RGB images to the same pixels, but with two more passes over
  them.

  Args:
    data: bytes of a JPEG or PNG file, or an array, which is returned as it is.

  Returns:
    [H, W, C] uint8 or uint16.

  Raises:
    ValueError: the prepared data is damaged.
  """
  if isinstance(data, np.ndarray):
    return data
  return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_label(data: bytes) -> np.ndarray:
  """Decodes the label of a record.

  Args:
    data: bytes of a PNG file.

  Returns:
    [H, W] uint8 train ids or IGNORE.

  Raises:
    ValueError: the prepared data is damaged.
  """
  return _decode(data, cv2.IMREAD_GRAYSCALE)


def read_label_size(data: bytes) -> tuple[int, int]:
  """Returns (H, W) of a label, from the header of its PNG file.

  Args:
    data: bytes of a PNG file.

  Raises:
    ValueError: the prepared data is damaged.
  """
  if not data.startswith(b'\x89PNG') or len(data) < 24:
    raise ValueError(_DAMAGED)
  width, height = struct.unpack('>II', data[16:24])
  return height, width


def decode_window(
  data: bytes | np.ndarray, size: tuple[int, int], rows: slice, columns: slice
) -> np.ndarray:
  """Decodes a window of an image, bitwise equal to a crop of the whole.

  Large JPEG images are decoded only around the window.

  Args:
    data: bytes of a JPEG or PNG file, or an array.
    size: (H, W) of the image.
    rows: rows of the window, not empty.
    columns: columns of the window, not empty.

  Returns:
    `decode_image(data)[rows, columns]`, [h, w, C].

  Raises:
    ValueError: the prepared data is damaged.
  """
  top, bottom = _add_margin(rows, size[0])
  left, right = _add_margin(columns, size[1])
  window_pixels = (bottom - top) * (right - left)
  saved_pixels = size[0] * size[1] - window_pixels
  if (
    isinstance(data, np.ndarray)
    or data[:2] != b'\xff\xd8'
    or saved_pixels < max(_MIN_SAVED_PIXELS, window_pixels)
  ):
    return decode_image(data)[rows, columns]
  import tensorflow as tf  # slow to import, and needed here only

  try:
    window = tf.io.decode_and_crop_jpeg(
      data,
      (top, left, bottom - top, right - left),
      channels=3,
      dct_method='INTEGER_ACCURATE',
    ).numpy()
  except tf.errors.InvalidArgumentError:  # damaged, or a kind OpenCV can read
    return decode_image(data)[rows, columns]
  return window[
    rows.start - top : rows.stop - top,
    columns.start - left : columns.stop - left,
  ]


def _add_margin(part: slice, length: int) -> tuple[int, int]:
  return max(0, part.start - _MARGIN), min(length, part.stop + _MARGIN)


def _decode(data: bytes, flags: int) -> np.ndarray:
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error:  # of no bytes, or of too many pixels
    image = None
  if image is None:
    raise ValueError(_DAMAGED)
  return image
