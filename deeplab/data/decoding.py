"""Encoded images as they stand in prepared data, whole or in part."""

import cv2
import numpy as np

# A window of a JPEG is decoded alone where that spares so many pixels, and half
# of them: less does not pay.
_MIN_SAVED_PIXELS = 2**18
# Rows and columns around a window that are decoded with it: colours that are
# stored at half the size are interpolated from their neighbours.
_MARGIN = 16


def decode_image(data: bytes | np.ndarray) -> np.ndarray:
  """Decodes a record's image, [H, W, C], as it is stored.

  tfds decodes RGB images to the same pixels, in two passes more.

  Raises:
    ValueError: the prepared data is damaged.
  """
  if isinstance(data, np.ndarray):
    return data
  return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_label(data: bytes) -> np.ndarray:
  """Decodes a record's label, uint8 [H, W] train ids or IGNORE.

  Raises:
    ValueError: the prepared data is damaged.
  """
  return _decode(data, cv2.IMREAD_GRAYSCALE)


def decode_window(
  data: bytes | np.ndarray, size: tuple[int, int], rows: slice, columns: slice
) -> np.ndarray:
  """Returns `pixels(data)[rows, columns]`, without the rest where it can.

  Args:
    data: the image.
    size: its (H, W).
    rows: a range that is not empty.
    columns: likewise.

  Raises:
    ValueError: the prepared data is damaged.
  """
  top, bottom = _add_margin(rows, size[0])
  left, right = _add_margin(columns, size[1])
  whole, part = size[0] * size[1], (bottom - top) * (right - left)
  spared = whole - part
  if (
    isinstance(data, np.ndarray)
    or data[:2] != b'\xff\xd8'
    or spared < max(_MIN_SAVED_PIXELS, part)
  ):
    return decode_image(data)[rows, columns]
  import tensorflow as tf  # training has it anyway; other readers need it not

  try:
    found = tf.io.decode_and_crop_jpeg(
      data,
      (top, left, bottom - top, right - left),
      channels=3,
      dct_method='INTEGER_ACCURATE',
    ).numpy()
  except tf.errors.InvalidArgumentError:  # damaged, or just unusual
    return decode_image(data)[rows, columns]
  return found[
    rows.start - top : rows.stop - top,
    columns.start - left : columns.stop - left,
  ]


def _add_margin(part: slice, length: int) -> tuple[int, int]:
  return max(0, part.start - _MARGIN), min(length, part.stop + _MARGIN)


def _decode(data: bytes, flags: int) -> np.ndarray:
  found = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  if found is None:
    raise ValueError(
      'a prepared example does not decode: remove its folder below '
      'config.data.data_dir, to have it prepared again'
    )
  return found
