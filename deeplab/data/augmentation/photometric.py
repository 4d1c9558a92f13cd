"""Augmentations of an image's colours, the label left alone.

Ops as in `augment.py`, of RGB images of 8 bits.
"""

from typing import Any

import cv2
import numpy as np

Example = dict[str, Any]


def photometric(
  example: Example,
  rng: np.random.Generator,
  *,
  brightness: float,
  contrast: tuple[float, float],
  saturation: tuple[float, float],
  hue: float,
) -> Example:
  """Distorts colours: each of four changes with probability 1/2.

  Brightness first; contrast either before or after the two changes in HSV
  space, with equal chance (SSD's scheme, Liu et al. 2016, as MMSegmentation
  has it with 32, (.5, 1.5), (.5, 1.5) and 18).

  Args:
    example: the example.
    rng: source of randomness.
    brightness: adds up to this many grey levels, or takes them away.
    contrast: (low, high) of the factor on all channels.
    saturation: (low, high) of the factor on the saturation.
    hue: turns the hue by up to this many half degrees either way.
  """
  image = _require_rgb(example, 'photometric')
  if rng.random() < 0.5:
    image = _scale_and_shift(image, 1.0, rng.uniform(-brightness, brightness))
  contrast_first = rng.random() < 0.5
  factor = rng.uniform(*contrast) if rng.random() < 0.5 else 1.0
  if contrast_first:
    image = _scale_and_shift(image, factor, 0.0)
  saturate, turn = rng.random() < 0.5, rng.random() < 0.5
  if saturate or turn:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if saturate:
      hsv[..., 1] = _scale_and_shift(hsv[..., 1], rng.uniform(*saturation), 0.0)
    if turn:
      delta = round(rng.uniform(-hue, hue))
      hsv[..., 0] = (hsv[..., 0].astype(np.int16) + delta) % 180
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
  if not contrast_first:
    image = _scale_and_shift(image, factor, 0.0)
  return example | {'image': image}


def distort(
  example: Example,
  rng: np.random.Generator,
  *,
  brightness: float,
  contrast: float,
  saturation: float,
  hue: float,
  probability: float,
) -> Example:
  """Distorts colours in random order (PaddleSeg's `RandomDistort`).

  Brightness, contrast and saturation are Pillow's enhancements: a blend with
  black, with the mean grey of the image, and with its own grey.

  Args:
    example: the example.
    rng: source of randomness.
    brightness: the factor is drawn from 1 - brightness to 1 + brightness.
    contrast: likewise.
    saturation: likewise.
    hue: turns the hue by up to this many of 256 steps either way; 18 there.
    probability: of each of the four.
  """
  image = _require_rgb(example, 'distort')
  for i in rng.permutation(4):
    if rng.random() >= probability:
      continue
    amount = (brightness, contrast, saturation, hue)[i]
    value = rng.uniform(-amount, amount)
    if i == 0:
      image = _scale_and_shift(image, 1 + value, 0.0)
    elif i == 1:
      grey = round(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean())
      image = _scale_and_shift(image, 1 + value, -value * grey)
    elif i == 2:
      grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
      image = grey + (1 + value) * (image.astype(np.float32) - grey)
      image = np.rint(image.clip(0, 255)).astype(np.uint8)
    elif turn := round(value):
      hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
      hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % 256
      image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
  return example | {'image': image}


def brightness_contrast(
  example: Example,
  rng: np.random.Generator,
  *,
  brightness: float,
  contrast: float,
) -> Example:
  """Scales each channel about its mean, then shifts all (ST's model zoo).

  Args:
    example: the example.
    rng: source of randomness.
    brightness: shifts by up to this share of the 255 levels either way.
    contrast: the factor is drawn from 1 - contrast to 1 + contrast.
  """
  factor = 1 + rng.uniform(-contrast, contrast)
  shift = 255 * rng.uniform(-brightness, brightness)
  image = _require_rgb(example, 'brightness_contrast')
  levels = np.arange(256)[:, None]
  means = image.reshape(-1, image.shape[2]).mean(0)
  table = (levels - means) * factor + means + shift
  table = np.rint(table.clip(0, 255)).astype(np.uint8)
  return example | {'image': cv2.LUT(image, table[:, None])}


def _require_rgb(example: Example, op: str) -> np.ndarray:
  """Returns the image of an example, [H, W, 3] uint8.

  Raises:
    ValueError: it is none; the message names the op.
  """
  image = example['image']
  if image.dtype != np.uint8 or image.shape[2] != 3:
    raise ValueError(
      f'{op} distorts RGB images of 8 bits; these have {image.shape[2]} '
      f'channels of {image.dtype}: take it out of config.data.augment.ops'
    )
  return image


def _scale_and_shift(
  image: np.ndarray, factor: float, offset: float
) -> np.ndarray:
  """Returns factor * image + offset as uint8, rounded and clipped."""
  levels = np.arange(256) * factor + offset
  return cv2.LUT(image, np.rint(levels.clip(0, 255)).astype(np.uint8))
