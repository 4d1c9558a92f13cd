"""Lazy images against whole images that are decoded, resized and cropped."""

import cv2
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import common
from deeplab.data import decoding
from deeplab.data.augmentation import compose
from deeplab.data.augmentation import lazy_image
from tests.data import decoding_test

FILL = (10.0, 20.0, 30.0)
SIZE = 600, 1001


@pytest.fixture(scope='module')
def data():
  return decoding_test.jpeg(decoding_test.photograph(*SIZE), quality=92)


def config(ops, **fields):
  c = common.default_config().data.augment
  c.ops = ops
  c.random_crop.size = (129, 161)
  c.update_from_flattened_dict(fields)
  return c


def augment_both(c, data, seed):
  """Returns the augmented examples of an array and of a lazy image."""
  label = np.random.default_rng(9).integers(0, 5, SIZE).astype(np.uint8)
  apply = compose.compose_ops(ConfigDict(c), FILL)
  return (
    apply({'image': image, 'label': label}, np.random.default_rng(seed))
    for image in (
      decoding.decode_image(data),
      lazy_image.wrap_image(data, SIZE),
    )
  )


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('shrink', ['area', 'bilinear'])
@pytest.mark.parametrize(
  'ops',
  [
    ('random_scale', 'random_crop', 'random_flip'),
    ('random_fit', 'random_crop'),
    ('random_short_side', 'random_crop', 'random_rotate'),
    ('stretch', 'random_stretch', 'random_crop'),
    ('random_crop',),
    ('random_rotate', 'random_scale', 'random_crop'),
    ('random_scale', 'pad', 'random_crop'),
    ('random_stretch',),
  ],
)
def test_lazy_crops_equal_eager_ones_up_to_rounding(data, ops, shrink, seed):
  c = config(ops, shrink=shrink)
  want, got = augment_both(c, data, seed)
  np.testing.assert_array_equal(got['label'], want['label'])
  assert isinstance(got['image'], np.ndarray)
  assert got['image'].dtype == np.uint8
  difference = np.abs(got['image'].astype(int) - want['image'])
  assert difference.max() <= 1


@pytest.mark.parametrize('low', [0.5, 0.61, 0.97, 1.03, 1.7, 2.0])
@pytest.mark.parametrize('corner', [(0, 0), (1, 1), (0.37, 0.81)])
@pytest.mark.parametrize('shrink', [cv2.INTER_AREA, cv2.INTER_LINEAR])
def test_windows_at_any_place_and_scale(data, low, corner, shrink):
  size = round(SIZE[0] * low), round(SIZE[1] * low)
  kind = shrink if low < 1 else cv2.INTER_LINEAR
  want = cv2.resize(decoding.decode_image(data), size[::-1], interpolation=kind)
  top, left = (
    round((n - 128) * at) for n, at in zip(size, corner, strict=True)
  )
  window = slice(top, top + 128), slice(left, left + 128)
  image = lazy_image.wrap_image(data, SIZE).resize(size, kind)
  difference = np.abs(image[window].astype(int) - want[window])
  assert difference.max() <= 1
  # A shifted window would not pass.
  moved = np.roll(want, 1, 1)[window]
  assert np.abs(image[window].astype(int) - moved).max() > 20


def test_only_the_window_is_decoded(data, monkeypatch):
  decoded = []
  real = decoding.decode_window

  def window(data, size, rows, columns):
    decoded.append((rows.stop - rows.start, columns.stop - columns.start))
    return real(data, size, rows, columns)

  monkeypatch.setattr(decoding, 'decode_window', window)
  monkeypatch.setattr(decoding, 'decode_image', None)  # fails if called
  image = lazy_image.wrap_image(data, SIZE)
  image.resize((1200, 2002), cv2.INTER_LINEAR)[100:200, 600:800]
  image.resize((450, 751), cv2.INTER_AREA)[100:160, 300:360]
  image[5:15, 6:26]
  assert decoded[2] == (10, 20)
  for (height, width), least in zip(
    decoded, ((50, 100), (80, 80)), strict=False
  ):
    assert least[0] <= height <= least[0] + 4
    assert least[1] <= width <= least[1] + 4


def test_arrays_give_the_windows_of_encoded_images(data):
  """`config.data.cache` keeps decoded arrays."""
  pixels = decoding.decode_image(data)
  pixels.setflags(write=False)
  for size, kind in (
    ((900, 1500), cv2.INTER_LINEAR),
    ((400, 667), cv2.INTER_AREA),
  ):
    window = slice(30, 200), slice(11, 222)
    one = lazy_image.wrap_image(data, SIZE).resize(size, kind)[window]
    two = lazy_image.wrap_image(pixels).resize(size, kind)[window]
    np.testing.assert_array_equal(one, two)
