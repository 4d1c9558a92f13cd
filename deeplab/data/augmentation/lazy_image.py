"""RGB images that are decoded and resized only where a crop shows them.

A training crop is a part of an image that was resized. A `LazyImage` remembers
the encoded image and the size it should have; indexing it with a window decodes
and resizes only the pixels under that window. The result equals that of
resizing the whole image and cropping, up to one grey level of rounding.
"""

import dataclasses
import math

import cv2
import numpy as np

from deeplab.data import decoding
from deeplab.data.augmentation import sizes


@dataclasses.dataclass(frozen=True)
class LazyImage:
  """An RGB image whose decoding and resizing are still pending.

  Attributes:
    data: the encoded image (JPEG or PNG), or uint8 [H, W, 3].
    stored_size: (H, W) of `data`.
    size: (H, W) after the pending resize; `stored_size` if there is none.
    interpolation: OpenCV's interpolation flag of the pending resize.
  """

  data: bytes | np.ndarray
  stored_size: sizes.Size
  size: sizes.Size
  interpolation: int = cv2.INTER_LINEAR

  def resize(self, size: sizes.Size, interpolation: int) -> 'LazyImage':
    """Returns the image with a pending resize.

    A resize that is already pending is carried out first.

    Args:
      size: (H, W) afterwards.
      interpolation: OpenCV's interpolation flag.
    """
    source = self
    if self.size != self.stored_size:
      source = wrap_image(self.to_array())
    return dataclasses.replace(source, size=size, interpolation=interpolation)

  def to_array(self) -> np.ndarray:
    """Decodes and resizes the whole image, to uint8 [H, W, 3]."""
    pixels = decoding.decode_image(self.data)
    if self.size == self.stored_size:
      return pixels
    return cv2.resize(pixels, self.size[::-1], interpolation=self.interpolation)

  def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
    """Decodes and resizes a window.

    Args:
      window: ranges of rows and of columns, in pixels of the resized image.
        Both need a start and a stop, and no step.

    Returns:
      uint8 [h, w, 3].
    """
    rows, columns = window
    if self.size == self.stored_size:
      return decoding.decode_window(self.data, self.stored_size, rows, columns)
    if self.interpolation == cv2.INTER_LINEAR:
      return self._bilinear_window(rows, columns)
    if (
      self.size[0] < self.stored_size[0] and self.size[1] < self.stored_size[1]
    ):
      return self._area_window(rows, columns)
    return self.to_array()[window]

  def _bilinear_window(self, rows: slice, columns: slice) -> np.ndarray:
    """Returns a window of the image resized bilinearly, uint8 [h, w, 3].

    The affine map from window to stored pixels keeps the fraction of a pixel by
    which the window's corner is off the stored grid.
    """
    matrix, spans = np.eye(2, 3), []
    axes = zip((rows, columns), self.stored_size, self.size, strict=True)
    for axis, (part, stored, size) in enumerate(axes):
      scale = stored / size
      # Centers of the window's first and last pixel, in stored pixels.
      first, last = (
        (i + 0.5) * scale - 0.5 for i in (part.start, part.stop - 1)
      )
      start = max(0, math.floor(first) - 1)
      spans.append(slice(start, min(stored, math.floor(last) + 3)))
      matrix[1 - axis, [1 - axis, 2]] = scale, first - start
    return cv2.warpAffine(
      decoding.decode_window(self.data, self.stored_size, *spans),
      matrix,
      (columns.stop - columns.start, rows.stop - rows.start),
      flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
      borderMode=cv2.BORDER_REPLICATE,
    )

  def _area_window(self, rows: slice, columns: slice) -> np.ndarray:
    """Returns a window of the image shrunk by area averages, uint8 [h, w, 3].

    OpenCV lays the averaged areas out from the upper left corner of its input,
    so the part above and to the left of the window has to be resized too. It is
    black: only the pixels under the window are decoded.
    """
    spans = []
    axes = zip((rows, columns), self.stored_size, self.size, strict=True)
    for part, stored, size in axes:
      start = math.floor(part.start * stored / size)
      stop = math.ceil(part.stop * stored / size) + 1
      spans.append(slice(start, min(stored, stop)))
    corner = np.zeros((spans[0].stop, spans[1].stop, 3), np.uint8)
    corner[spans[0], spans[1]] = decoding.decode_window(
      self.data, self.stored_size, *spans
    )
    shrunk = cv2.resize(
      corner,
      None,
      fx=self.size[1] / self.stored_size[1],
      fy=self.size[0] / self.stored_size[0],
      interpolation=self.interpolation,
    )
    return shrunk[rows, columns]


def wrap_image(
  data: bytes | np.ndarray, size: sizes.Size | None = None
) -> LazyImage:
  """Wraps an image, with no resize pending.

  Args:
    data: the encoded image, or uint8 [H, W, 3].
    size: (H, W) of an encoded image; an array has its own.
  """
  if isinstance(data, np.ndarray):
    size = data.shape[0], data.shape[1]
  assert size is not None
  return LazyImage(data, size, size)


def materialize(image: LazyImage | np.ndarray) -> np.ndarray:
  """Returns an image as an array [H, W, C], decoded and resized if lazy."""
  return image.to_array() if isinstance(image, LazyImage) else image
