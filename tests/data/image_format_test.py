"""Channels and bit depth of images, and their normalization."""

import ml_collections
import numpy as np
import pytest

from deeplab.data import image_format


def test_depths_are_8_and_16_bits():
  with pytest.raises(ValueError, match='images of 3 channels of 12 bits'):
    image_format.ImageSpec(3, 12)


def test_image_spec_of_a_config():
  c = ml_collections.ConfigDict({'mean': (1.0, 2.0, 3.0)})
  assert image_format.image_spec(c) == image_format.RGB
  assert str(image_format.image_spec(c)) == 'RGB in 0..255'
  c.depth, c.mean = 16, (1.0,) * 5
  assert image_format.image_spec(c) == image_format.ImageSpec(5, 16)
  assert image_format.image_spec(c).max_value == 65535
  assert str(image_format.image_spec(c)) == '5 channels in 0..65535'
  assert str(image_format.ImageSpec(1)) == 'grey in 0..255'


def test_normalize():
  image = np.array([[[10, 20, 30]]], np.uint8)
  got = image_format.normalize_image(image, (10.0, 10.0, 10.0), (2.0, 4.0, 5.0))
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, [[[0.0, 2.5, 4.0]]], rtol=1e-6)
