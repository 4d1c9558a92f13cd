"""Resizes images and label maps on the host, as models resize on devices."""

from collections.abc import Sequence

import cv2
import numpy as np


def resize_bilinear(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Resizes an image bilinearly, with half-pixel centers and no antialiasing.

  Args:
    image: [H, W, C] of any number of channels.
    size: (h, w) of the result.

  Returns:
    [h, w, C] float32.
  """
  image = np.asarray(image, np.float32)
  if image.shape[:2] == tuple(size):
    return image
  height, width = (int(n) for n in size)
  result = np.empty((height, width, image.shape[2]), np.float32)
  # OpenCV is made for up to four channels: larger images go in groups of four.
  for start in range(0, image.shape[2], 4):
    part = np.ascontiguousarray(image[..., start : start + 4])
    part = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    result[..., start : start + 4] = part.reshape(height, width, -1)
  return result


def argmax_of_resized(scores: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Computes the argmax of `resize_bilinear(scores, size)` in less memory.

  Four channels are resized at a time and compared with the best so far, so that
  a large image never has all of its scores at once.

  Args:
    scores: [H, W, K].
    size: (h, w) of the result.

  Returns:
    uint8 [h, w]; of equal scores the first.
  """
  height, width = (int(n) for n in size)
  best = np.full((height, width), -np.inf, np.float32)
  ids = np.zeros((height, width), np.uint8)
  for start in range(0, scores.shape[2], 4):
    part = resize_bilinear(scores[..., start : start + 4], size)
    for i in range(part.shape[2]):
      ids[part[..., i] > best] = start + i
      np.maximum(best, part[..., i], out=best)
  return ids


def resize_nearest(ids: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Resizes a label map to the nearest pixel center.

  Args:
    ids: integers [H, W].
    size: (h, w) of the result.

  Returns:
    [h, w] of the same dtype.
  """
  if ids.shape == tuple(size):
    return ids
  return cv2.resize(
    ids,
    (int(size[1]), int(size[0])),
    interpolation=cv2.INTER_NEAREST_EXACT,
  )
