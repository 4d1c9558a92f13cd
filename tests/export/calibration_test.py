"""Calibration images."""

import numpy as np

from deeplab.data import image_format
from export import calibration


def test_synthetic_images_are_a_function_of_the_seed():
  first, again = (calibration.draw_synthetic_images(2, (9, 7), 3) for _ in 'ab')
  other = calibration.draw_synthetic_images(2, (9, 7), 4)
  assert [x.shape for x in first] == [(9, 7, 3)] * 2
  assert first[0].dtype == np.uint8
  np.testing.assert_array_equal(first, again)
  assert np.mean(first[0] != other[0]) > 0.9
  assert np.mean(first[0] != first[1]) > 0.9


def test_samples_span_all_pixel_values_and_leave_images_alone():
  images = [np.full((4, 5, 3), 100, np.uint8), np.full((8, 10, 3), 50.0)]
  raw = list(
    calibration.representative_dataset(
      images, (4, 5), True, (50, 0, 0), (2, 1, 1)
    )
  )
  assert [x.shape for x in raw] == [(1, 4, 5, 3)] * 2
  assert raw[0].dtype == np.float32
  assert (raw[0].min(), raw[0].max(), np.median(raw[0])) == (0, 255, 100)
  assert (raw[1] == 50).all()
  assert (images[0] == 100).all()
  normal = list(
    calibration.representative_dataset(
      images, (4, 5), False, (50, 0, 0), (2, 1, 1)
    )
  )
  np.testing.assert_array_equal(normal[1][0, 0, 0], [0, 50, 50])
  np.testing.assert_array_equal(normal[0][0, 0, 0], [-25, 0, 0])


def test_images_of_other_pixels():
  pixels = image_format.ImageSpec(5, 16)
  (image,) = calibration.draw_synthetic_images(1, (9, 7), 3, pixels)
  assert image.shape == (9, 7, 5)
  assert image.dtype == np.uint16
  assert image.max() > 40_000
  images = [image // 2]
  (sample,) = calibration.representative_dataset(
    images, (9, 7), True, (1.0,) * 5, (1.0,) * 5, pixels.max_value
  )
  assert sample.shape == (1, 9, 7, 5)
  assert (sample[0, 0, 0] == 0).all()
  assert (sample[0, -1, -1] == 65535).all()
