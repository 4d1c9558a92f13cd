"""Sources of an export, and synthetic images."""

import numpy as np
import pytest

from configs import common
from deeplab.data import image_format
from deeplab.data import resize
from export import source as source_lib
from tests.export import weights


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    source_lib.load_trained(str(tmp_path), 'latest')


@pytest.fixture(name='config', scope='module')
def fixture_config():
  c = common.default_config()
  c.model.encoder = {'name': 'mobilenet_v2_tiny'}
  c.model.head = {'name': 'deeplabv3plus', 'channels': 8}
  c.eval.static_size = (33, 33)
  return c.lock()


def test_calibration_images_of_a_plain_folder(config, tmp_path):
  """Evenly spread over the folder, at the files' size; parity likewise."""
  for i in range(6):
    weights.write_photograph(tmp_path / f'{i}.png', i)
  source = weights.make_source(config, weights='a.pth', folder=tmp_path)
  assert source.has_calibration_images and source.is_trained
  found = source_lib.calibration_images(source, (20, 25), 3)
  for image, i in zip(found, (0, 2, 4), strict=True):
    (pixels,) = source_lib.draw_synthetic_images(1, (40, 50), i)
    np.testing.assert_array_equal(
      image, resize.resize_bilinear(pixels, (20, 25))
    )
  same = source_lib.parity_images(source, (20, 25), 3, 'calibration')
  np.testing.assert_array_equal(found, same)
  (tmp_path / '2.png').write_bytes((tmp_path / '2.png').read_bytes()[:99])
  with pytest.raises(ValueError, match=r'2\.png'):
    source_lib.calibration_images(source, (20, 25), 3)


def test_weights_alone_have_no_calibration_images(config):
  source = weights.make_source(config, weights='a.pth')
  assert source.is_trained and not source.has_calibration_images
  assert source.describe()['run'] == 'a.pth'
  assert weights.make_source(config).has_calibration_images  # synthetic
  assert weights.make_source(config, 7, '/runs/tiny').has_calibration_images


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
