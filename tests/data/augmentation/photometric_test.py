"""Ops that change colors, against numbers by hand and Pillow."""

import numpy as np
import pytest

from deeplab.data.augmentation import compose
from deeplab.data.augmentation import photometric
from tests.data.augmentation import ops_test

PHOTOMETRIC = {
  'brightness': 32.0,
  'contrast': (0.5, 1.5),
  'saturation': (0.5, 1.5),
  'hue': 18.0,
}
NONE = {
  'brightness': 0.0,
  'contrast': 0.0,
  'saturation': 0.0,
  'hue': 0.0,
  'probability': 1.0,
}


class Fixed:
  """A generator that returns given values, and keeps the order of a list."""

  def __init__(self, *values):
    self.values = list(values)

  def random(self):
    return 0.0

  def permutation(self, count):
    return np.arange(count)

  def uniform(self, low, high):
    value = self.values.pop(0)
    assert low <= value <= high
    return value


def test_photometric_changes_colours_only():
  rng = np.random.default_rng(0)
  example = {
    'image': rng.integers(0, 256, (16, 16, 3)).astype(np.uint8),
    'label': rng.integers(0, 5, (16, 16)).astype(np.uint8),
  }
  changed = 0
  for seed in range(20):
    got, again = (
      photometric.Photometric(**PHOTOMETRIC)(
        example, np.random.default_rng(seed)
      )
      for _ in range(2)
    )
    np.testing.assert_array_equal(got['image'], again['image'])
    assert got['label'] is example['label']
    changed += int((got['image'] != example['image']).any())
  assert 15 <= changed < 20  # with probability 1/16 nothing happens


def test_photometric_keeps_grey_grey():
  grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
  example = {'image': grey, 'label': grey[..., 0]}
  for seed in range(10):
    image = photometric.Photometric(**PHOTOMETRIC)(
      example, np.random.default_rng(seed)
    )['image'].astype(int)
    assert np.ptp(image, axis=2).max() == 0
    assert (np.diff(image[0, :, 0]) >= 0).all()


@pytest.mark.parametrize('image', [np.zeros((4, 4, 5)), np.zeros((4, 4, 3))])
@pytest.mark.parametrize(
  'name', ['photometric', 'distort', 'brightness_contrast']
)
def test_colour_ops_reject_all_but_8_bit_rgb(name, image):
  example = {'image': image.astype(np.uint16), 'label': None}
  op = ops_test.build(name)
  with pytest.raises(ValueError, match=rf'{name} distorts .* of uint16'):
    op(example, np.random.default_rng(0))


@pytest.mark.parametrize('name', ['distort', 'brightness_contrast'])
def test_labels_stay(name):
  rng = np.random.default_rng(0)
  example = {
    'image': rng.integers(0, 256, (16, 16, 3)).astype(np.uint8),
    'label': rng.integers(0, 5, (16, 16)).astype(np.uint8),
  }
  before = example['image'].copy()
  (op,) = compose.compose_ops(ops_test.config(name), ops_test.FILL).ops
  changed = 0
  for seed in range(20):
    got, again = (op(example, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(got['image'], again['image'])
    assert got['label'] is example['label']
    assert got['image'].dtype == np.uint8
    changed += int((got['image'] != before).any())
  np.testing.assert_array_equal(example['image'], before)
  assert changed >= 17


@pytest.mark.parametrize(
  ('field', 'values', 'enhancement'),
  [
    ('brightness', (0.4, 0, 0, 0), 'Brightness'),
    ('contrast', (0, -0.3, 0, 0), 'Contrast'),
    ('saturation', (0, 0, 0.45, 0), 'Color'),
  ],
)
def test_distort_equals_pillow_s_enhancements(field, values, enhancement):
  images = pytest.importorskip('PIL.Image')
  enhance = pytest.importorskip('PIL.ImageEnhance')
  image = np.random.default_rng(0).integers(60, 190, (8, 9, 3)).astype(np.uint8)
  fields = NONE | {field: 0.5}
  got = photometric.Distort(**fields)({'image': image}, Fixed(*values))['image']
  expected = getattr(enhance, enhancement)(images.fromarray(image)).enhance(
    1 + sum(values)
  )
  # Pillow cuts fractions off.
  assert abs(got.astype(int) - np.asarray(expected, int)).max() <= 1
  assert abs(got.astype(int) - image).max() > 10


def test_distort_turns_the_hue():
  red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
  fields = NONE | {'hue': 100.0}
  # A third of 256 steps makes red green.
  got = photometric.Distort(**fields)({'image': red}, Fixed(0, 0, 0, 85.3))
  np.testing.assert_allclose(got['image'][0, 0], [0, 200, 0], atol=4)


def test_hues_wrap():
  red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
  # A third of 256 steps back from red is blue.
  distort = photometric.Distort(**NONE | {'hue': 100.0})
  got = distort({'image': red}, Fixed(0, 0, 0, -85.3))['image']
  np.testing.assert_allclose(got[0, 0], [0, 0, 200], atol=6)

  class TurnOnly(Fixed):
    """Draws in turn: brightness, contrast first, contrast, saturation, hue."""

    draws = iter([0.9, 0.9, 0.9, 0.9, 0.1])

    def random(self):
      return next(self.draws)

  # 36 degrees back: the blue is 36 / 60 of the red.
  turned = photometric.Photometric(**PHOTOMETRIC)(
    {'image': red}, TurnOnly(-18.0)
  )['image']
  np.testing.assert_allclose(turned[0, 0], [200, 0, 120], atol=2)


def test_contrast_is_about_the_mean_grey():
  # Greys 60 and 3, whose mean of 31.5 counts as 32.
  image = np.array([[[200, 0, 0], [3, 3, 3]]], np.uint8)
  distort = photometric.Distort(**NONE | {'contrast': 1.0})
  got = distort({'image': image}, Fixed(0, -1.0, 0, 0))['image']
  assert got.tolist() == [[[32, 32, 32], [32, 32, 32]]]
  got = distort({'image': image}, Fixed(0, -0.5, 0, 0))['image']
  # Half of each channel, and 16.
  assert got[0].tolist() == [[116, 16, 16], [18, 18, 18]]


def test_brightness_and_contrast_by_hand():
  image = np.array([[[100, 20, 0], [140, 40, 255]]], np.uint8)
  got = photometric.BrightnessContrast(brightness=0.3, contrast=0.4)(
    {'image': image}, Fixed(0.4, -0.1)
  )['image']
  # Means 120, 30, 127.5; 1.4 times the distance from them, less 25.5.
  assert got[0].tolist() == [[66, 0, 0], [122, 18, 255]]
