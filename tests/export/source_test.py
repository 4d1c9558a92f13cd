"""Sources of an export, and synthetic images."""

import numpy as np
import pytest

from deeplab.data import image_format
from export import source as source_lib


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    source_lib.load_from_workdir(str(tmp_path), 'latest', None)


def test_synthetic_images_are_a_function_of_the_seed():
  first, again = (
    source_lib.draw_synthetic_images(2, (9, 7), 3) for _ in range(2)
  )
  other = source_lib.draw_synthetic_images(2, (9, 7), 4)
  assert [x.shape for x in first] == [(9, 7, 3)] * 2
  assert first[0].dtype == np.uint8
  np.testing.assert_array_equal(first, again)
  assert np.mean(first[0] != other[0]) > 0.9
  assert np.mean(first[0] != first[1]) > 0.9


def test_synthetic_images_of_16_bits():
  spec = image_format.ImageSpec(5, 16)
  (image,) = source_lib.draw_synthetic_images(1, (9, 7), 3, spec)
  assert image.shape == (9, 7, 5)
  assert image.dtype == np.uint16
  assert image.max() > 40_000
