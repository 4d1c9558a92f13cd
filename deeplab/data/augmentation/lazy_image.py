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
class Image:
  """An image that is not there yet.

  Attributes:
    data: the encoded image, or uint8 [H, W, 3].
    stored: its (H, W).
    size: (H, W) that it is resized to.
    interpolation: OpenCV's, of the resizing.
  """

  data: bytes | np.ndarray
  stored: sizes.Size
  size: sizes.Size
  interpolation: int = cv2.INTER_LINEAR

  def resized(self, size: sizes.Size, interpolation: int) -> 'Image':
    """Returns the image at another (H, W)."""
    base = self
    if self.size != self.stored:  # twice in a row
      base = of(self.whole())
    return dataclasses.replace(base, size=size, interpolation=interpolation)

  def whole(self) -> np.ndarray:
    """Returns uint8 [H, W, 3]."""
    pixels = decoding.pixels(self.data)
    if self.size == self.stored:
      return pixels
    return cv2.resize(pixels, self.size[::-1], interpolation=self.interpolation)

  def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
    """Returns uint8 [h, w, 3] of a window; both ranges have ends."""
    rows, columns = window
    if self.size == self.stored:
      return decoding.window(self.data, self.stored, rows, columns)
    if self.interpolation == cv2.INTER_LINEAR:
      return self._interpolated(rows, columns)
    if self.size[0] < self.stored[0] and self.size[1] < self.stored[1]:
      return self._averaged(rows, columns)
    return self.whole()[window]

  def _interpolated(self, rows: slice, columns: slice) -> np.ndarray:
    """Returns a window of the image resized bilinearly."""
    matrix, spans = np.eye(2, 3), []
    axes = zip((rows, columns), self.stored, self.size, strict=True)
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
      decoding.window(self.data, self.stored, *spans),
      matrix,
      (columns.stop - columns.start, rows.stop - rows.start),
      flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
      borderMode=cv2.BORDER_REPLICATE,
    )

  def _averaged(self, rows: slice, columns: slice) -> np.ndarray:
    """Returns a window of the image shrunk by averages.

    OpenCV averages from the corner on, so what is above and to the left of the
    window is resized too, but not decoded.
    """
    spans = []
    axes = zip((rows, columns), self.stored, self.size, strict=True)
    for part, stored, size in axes:
      start = math.floor(part.start * stored / size)
      stop = math.ceil(part.stop * stored / size) + 1
      spans.append(slice(start, min(stored, stop)))
    corner = np.zeros((spans[0].stop, spans[1].stop, 3), np.uint8)
    corner[spans[0], spans[1]] = decoding.window(self.data, self.stored, *spans)
    shrunk = cv2.resize(
      corner,
      None,
      fx=self.size[1] / self.stored[1],
      fy=self.size[0] / self.stored[0],
      interpolation=self.interpolation,
    )
    return shrunk[rows, columns]


def of(data: bytes | np.ndarray, size: sizes.Size | None = None) -> Image:
  """Returns an image that is not resized yet.

  Args:
    data: the encoded image, or uint8 [H, W, 3].
    size: its (H, W), of an encoded one.
  """
  if isinstance(data, np.ndarray):
    size = data.shape[0], data.shape[1]
  assert size is not None
  return Image(data, size, size)


def there(image: Image | np.ndarray) -> np.ndarray:
  """Returns an image's pixels, whether it is deferred or not."""
  return image.whole() if isinstance(image, Image) else image
