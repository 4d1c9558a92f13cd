"""RGB images that are decoded and resized when it is known which part counts.

A training crop shows a part of an image that was made larger or smaller: only
the pixels that the part is made of are decoded and resized. They are those of
the whole image resized and cropped, but for a grey level of rounding.
"""

import dataclasses
import math

import cv2
import numpy as np

from deeplab.data import decoding
from deeplab.data.augmentation import sizes


@dataclasses.dataclass(frozen=True)
class LazyImage:
  """An image that is not there yet.

  Attributes:
    data: the encoded image, or uint8 [H, W, 3].
    stored_size: its (H, W).
    size: (H, W) that it is resized to.
    interpolation: OpenCV's, of the resizing.
  """

  data: bytes | np.ndarray
  stored_size: sizes.Size
  size: sizes.Size
  interpolation: int = cv2.INTER_LINEAR

  def resize(self, size: sizes.Size, interpolation: int) -> 'LazyImage':
    """Returns the image at another (H, W)."""
    base = self
    if self.size != self.stored_size:  # twice in a row
      base = wrap_image(self.to_array())
    return dataclasses.replace(base, size=size, interpolation=interpolation)

  def to_array(self) -> np.ndarray:
    """Returns uint8 [H, W, 3]."""
    pixels = decoding.decode_image(self.data)
    if self.size == self.stored_size:
      return pixels
    return cv2.resize(pixels, self.size[::-1], interpolation=self.interpolation)

  def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
    """Returns uint8 [h, w, 3] of a window; both ranges have ends."""
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
    """Returns a window of the image resized bilinearly."""
    matrix, spans = np.eye(2, 3), []
    axes = zip((rows, columns), self.stored_size, self.size, strict=True)
    for axis, (part, stored, size) in enumerate(axes):
      scale = stored / size
      # Of the middles of the first and the last pixel, in stored pixels.
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
    """Returns a window of the image shrunk by averages.

    OpenCV averages from the corner on, so what is above and to the left of the
    window is resized too, but not decoded.
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
  """Returns an image that is not resized yet.

  Args:
    data: the encoded image, or uint8 [H, W, 3].
    size: its (H, W), of an encoded one.
  """
  if isinstance(data, np.ndarray):
    size = data.shape[0], data.shape[1]
  assert size is not None
  return LazyImage(data, size, size)


def materialize(image: LazyImage | np.ndarray) -> np.ndarray:
  """Returns an image's pixels, whether it is deferred or not."""
  return image.to_array() if isinstance(image, LazyImage) else image
