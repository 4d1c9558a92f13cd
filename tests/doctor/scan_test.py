"""The numbers that are kept of one example, against simple loops."""

import itertools

import numpy as np
import pytest

from deeplab.data.augmentation import compose
from deeplab.doctor import example_loader
from deeplab.doctor import scan


def windows(augment, size):
  return scan.crop_windows(compose.compose_known_ops(augment), size)


def test_crop_windows(config):
  augment = config.data.augment
  augment.random_crop.size = (100, 201)
  augment.random_scale.low, augment.random_scale.high = 0.5, 2.5
  assert windows(augment, (600, 800)) == (
    *((200, 402), (100, 201), (67, 134), (50, 100), (40, 80)),
  )
  augment.ops = ('random_crop', 'random_scale')
  assert windows(augment, (600, 800)) == ((100, 201),)
  augment.ops = ('random_flip',)
  assert windows(augment, (600, 800)) == ()


@pytest.mark.parametrize(
  ('ops', 'least', 'most'),
  [
    # 500x375 fits into 2048x512 times 0.5 to 2: 256 to 1024 pixels high.
    (('random_fit',), (188, 188), (750, 751)),
    # To a shorter side of 260 to 1040.
    (('random_short_side',), (185, 185), (738, 740)),
    # To 512x512, of which the crop is all, and then at most twice as large.
    (('stretch', 'random_stretch'), (188, 250), (375, 500)),
    (('stretch',), (375, 500), (375, 500)),
  ],
)
def test_crops_of_a_photograph(config, ops, least, most):
  """Windows in pixels of an image of 500x375, for crops of 512x512."""
  augment = config.data.augment
  augment.random_crop.size = augment.stretch.size = (512, 512)
  augment.ops = (*ops, 'random_crop')
  sizes = windows(augment, (375, 500))
  assert len(sizes) == (1 if least == most else 5)
  assert sizes[0] == most
  assert sizes[-1] == least


def test_empty_share():
  labelled = np.random.default_rng(0).random((9, 12)) < 0.1
  sizes = [(2, 3), (1, 1), (4, 20)]
  expected = []
  for height, width in ((2, 3), (1, 1), (4, 12)):
    places = itertools.product(range(9 - height + 1), range(12 - width + 1))
    expected.append(
      np.mean(
        [not labelled[y : y + height, x : x + width].any() for y, x in places]
      )
    )
  assert 0 < expected[0] < 1
  assert scan.compute_empty_share(labelled, sizes) == pytest.approx(
    np.mean(expected)
  )
  assert scan.compute_empty_share(labelled, []) == 0
  assert scan.compute_empty_share(np.zeros((3, 3), bool), [(99, 99)]) == 1
  assert scan.compute_empty_share(np.ones((3, 3), bool), [(1, 1)]) == 0


def test_perceptual_hash():
  """One scene, darker and noisy, smaller, and mirrored (another scene)."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 200, (16, 17, 1))
  scene = np.kron(coarse, np.ones((8, 8, 3))).astype(np.uint8)
  noisy = np.clip(scene * 0.8 + rng.normal(0, 4, scene.shape), 0, 255)
  bits = [
    np.unpackbits(
      np.frombuffer(
        scan.compute_perceptual_hash(image.astype(np.uint8)), np.uint8
      )
    )
    for image in (scene, noisy, scene[::2, ::2], scene[:, ::-1])
  ]
  assert bits[0].size == 256
  distances = [int((bits[0] != other).sum()) for other in bits[1:]]
  assert distances[0] <= 12
  assert distances[1] <= 12
  assert distances[2] > 60
  np.testing.assert_array_equal(
    bits[0].reshape(16, 16), np.diff(coarse[..., 0]) > 0
  )
  assert scan.compute_perceptual_hash(np.full((30, 30, 3), 77, np.uint8)) == b''


def test_equal_pixels_have_one_digest():
  images = [np.zeros((2, 8, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)]
  first, again, shape, value = (
    scan.scan_example(
      example_loader.LoadedExample(example_loader.ExampleRef('a', 'b'), image),
      compose.Compose(()),
    ).digest
    for image in (images[0], images[0].copy(), images[1], images[0] + 1)
  )
  assert first == again
  assert len({first, shape, value}) == 3
