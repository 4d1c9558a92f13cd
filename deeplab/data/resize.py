"""Resizing of images and label maps in NumPy."""

from collections.abc import Sequence

import cv2
import numpy as np


def resize_bilinear(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Resizes [H, W, C] to float32 [h, w, C], half-pixel centres, no filter."""
  image = np.asarray(image, np.float32)
  if image.shape[:2] == tuple(size):
    return image
  height, width = (int(n) for n in size)
  result = np.empty((height, width, image.shape[2]), np.float32)
  for start in range(0, image.shape[2], 4):  # cv2 is made for few channels
    part = np.ascontiguousarray(image[..., start : start + 4])
    part = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    result[..., start : start + 4] = part.reshape(height, width, -1)
  return result


def resize_nearest(ids: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Resizes integer ids [H, W] to [h, w] by the nearest pixel centre."""
  if ids.shape == tuple(size):
    return ids
  return cv2.resize(
    ids,
    (int(size[1]), int(size[0])),
    interpolation=cv2.INTER_NEAREST_EXACT,
  )
