"""Ops that change the pixels of an image and leave its label alone.

Those that compute with colors need RGB images of 8 bits.
"""

import dataclasses

import cv2
import numpy as np

from deeplab.data.augmentation import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photometric(base.Op):
  """Distorts brightness, contrast, saturation and hue, each in half the cases.

  Brightness comes first; contrast comes either before or after the two changes
  in HSV space, with equal chance. This is the scheme of SSD
  (https://arxiv.org/abs/1512.02325); MMSegmentation's
  `PhotoMetricDistortion` has it with 32, (0.5, 1.5), (0.5, 1.5) and 18.

  Attributes:
    brightness: adds an offset drawn from -brightness to brightness, in levels
      of 255.
    contrast: (low, high) of the factor on all channels.
    saturation: (low, high) of the factor on the saturation.
    hue: turns the hue by up to this many units of 2 degrees either way.
  """

  brightness: float
  contrast: tuple[float, float]
  saturation: tuple[float, float]
  hue: float

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws the changes and applies them to the image."""
    image = _require_rgb(example, 'photometric')
    if rng.random() < 0.5:
      offset = rng.uniform(-self.brightness, self.brightness)
      image = _scale_and_shift(image, 1.0, offset)
    contrast_first = rng.random() < 0.5
    factor = rng.uniform(*self.contrast) if rng.random() < 0.5 else 1.0
    if contrast_first:
      image = _scale_and_shift(image, factor, 0.0)
    saturate, turn = rng.random() < 0.5, rng.random() < 0.5
    if saturate or turn:
      hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
      if saturate:
        hsv[..., 1] = _scale_and_shift(
          hsv[..., 1], rng.uniform(*self.saturation), 0.0
        )
      if turn:
        delta = round(rng.uniform(-self.hue, self.hue))
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + delta) % 180
      image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not contrast_first:
      image = _scale_and_shift(image, factor, 0.0)
    return example | {'image': image}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distort(base.Op):
  """Distorts colors in random order (PaddleSeg's `RandomDistort`).

  Brightness, contrast and saturation are Pillow's enhancements: a blend with
  black, with the mean grey of the image, and with the image in grey.

  Attributes:
    brightness: the factor is drawn from 1 - brightness to 1 + brightness.
    contrast: the factor is drawn from 1 - contrast to 1 + contrast.
    saturation: the factor is drawn from 1 - saturation to 1 + saturation.
    hue: turns the hue by up to this many of 256 steps either way; PaddleSeg
      has 18.
    probability: of each of the four.
  """

  brightness: float
  contrast: float
  saturation: float
  hue: float
  probability: float

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws the order and the changes, and applies them to the image."""
    image = _require_rgb(example, 'distort')
    amounts = self.brightness, self.contrast, self.saturation, self.hue
    for i in rng.permutation(4):
      if rng.random() >= self.probability:
        continue
      value = rng.uniform(-amounts[i], amounts[i])
      if i == 0:
        image = _scale_and_shift(image, 1 + value, 0.0)
      elif i == 1:
        # Pillow rounds the mean so, halves up.
        mean = int(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean() + 0.5)
        image = _scale_and_shift(image, 1 + value, -value * mean)
      elif i == 2:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
        image = grey + (1 + value) * (image.astype(np.float32) - grey)
        image = np.rint(image.clip(0, 255)).astype(np.uint8)
      elif turn := round(value):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % 256
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return example | {'image': image}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrightnessContrast(base.Op):
  """Scales each channel about its mean, then shifts all (ST's model zoo).

  Attributes:
    brightness: shifts by up to this share of the 255 levels either way.
    contrast: the factor is drawn from 1 - contrast to 1 + contrast.
  """

  brightness: float
  contrast: float

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Draws factor and shift, and applies them to the image."""
    factor = 1 + rng.uniform(-self.contrast, self.contrast)
    shift = 255 * rng.uniform(-self.brightness, self.brightness)
    image = _require_rgb(example, 'brightness_contrast')
    levels = np.arange(256)[:, None]
    means = image.reshape(-1, image.shape[2]).mean(0)
    table = (levels - means) * factor + means + shift
    table = np.rint(table.clip(0, 255)).astype(np.uint8)
    return example | {'image': cv2.LUT(image, table[:, None])}


# The ops of this module, by their names in `config.data.augment.ops`.
OPS: dict[str, type[base.Op]] = {
  'brightness_contrast': BrightnessContrast,
  'distort': Distort,
  'photometric': Photometric,
}


def _require_rgb(example: base.Example, op: str) -> np.ndarray:
  """Returns the image of an example, [H, W, 3] uint8.

  Raises:
    ValueError: the image has other channels or another depth; the message
      names the op.
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
