"""Ops that move pixels, against numbers by hand and other libraries."""

import numpy as np
import pytest

from deeplab.data.augmentation import geometric
from tests import mmseg_module
from tests.data.augmentation import ops_test

FILL = (10.0, 20.0, 30.0)
SIZE = ops_test.SIZE
RESIZING = {'shrink': 'area', 'nearest': 'center'}


def test_scale_is_half_pixel():
  label = np.arange(4, dtype=np.uint8)[None].repeat(4, 0)
  example = {'image': np.repeat(label[..., None] * 40, 3, 2), 'label': label}
  double = geometric.resize_example(example, (8, 8), 'area', 'center')
  assert double['label'][0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
  assert double['image'][0, :, 0].tolist() == [0, 10, 30, 50, 70, 90, 110, 120]
  half = geometric.resize_example(example, (2, 2), 'area', 'center')
  assert half['image'][0, :, 0].tolist() == [20, 100]
  # A pixel of the smaller map covers two; the second one is read.
  assert half['label'][0].tolist() == [1, 3]
  corner = geometric.resize_example(example, (2, 2), 'area', 'corner')
  assert corner['label'][0].tolist() == [0, 2]
  np.testing.assert_array_equal(corner['image'], half['image'])
  with pytest.raises(ValueError, match=r"nearest='edge' is not one of \['cen"):
    geometric.resize_example(example, (2, 2), 'area', 'edge')


def test_area_shrinking_averages_the_covered_pixels():
  row = np.array([0, 0, 0, 240, 0, 0, 240, 240], np.uint8)
  label = np.zeros((8, 8), np.uint8)
  image = np.tile(row[None, :, None], (8, 1, 3))
  quarter = geometric.resize_example(
    {'image': image, 'label': label}, (2, 2), 'area', 'center'
  )
  # Each pixel is the mean of 16; two neighbors would give 0 and 120.
  assert quarter['image'][0, :, 0].tolist() == [60, 120]


@pytest.mark.parametrize('size', [(11, 9), (5, 17), (24, 30)])
def test_bilinear_shrinking_reads_two_neighbors_per_side(size):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (25, 33, 3), np.uint8)
  example = {'image': image, 'label': image[..., 0]}
  expected = image.astype(float)
  for axis, new in enumerate(size):
    old = image.shape[axis]
    place = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
    low = np.floor(place).astype(int)
    part = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    high = np.minimum(low + 1, old - 1)
    expected = expected.take(low, axis) * (1 - part) + (
      expected.take(high, axis) * part
    )
  got = geometric.resize_example(example, size, 'bilinear', 'center')
  np.testing.assert_allclose(got['image'], expected, atol=1)
  area = geometric.resize_example(example, size, 'area', 'center')
  assert np.abs(area['image'] - expected).max() > 10
  np.testing.assert_array_equal(got['label'], area['label'])
  with pytest.raises(ValueError, match=r"shrink='cubic' is not one of"):
    geometric.resize_example(example, size, 'cubic', 'center')


def test_a_crop_without_padding_keeps_shorter_sides():
  example = ops_test.coordinates(1)  # 48x60
  got = geometric.RandomCrop(
    size=(64, 40), max_class_share=1.0, padded=False, fill=FILL
  )(example, np.random.default_rng(0))
  assert got['image'].shape == (48, 40, 3)
  first = int(got['label'][0, 0])
  np.testing.assert_array_equal(
    got['label'], example['label'][:, first : first + 40]
  )


def test_scale_steps():
  rng = np.random.default_rng(0)
  heights = {
    geometric.RandomScale(low=0.5, high=1.0, step=0.25, **RESIZING)(
      ops_test.coordinates(0), rng
    )['label'].shape
    for _ in range(40)
  }
  assert heights == {(24, 30), (36, 45), (48, 60)}


@pytest.mark.parametrize(
  ('size', 'factor', 'expected'),
  [
    # ADE20K's: the shorter side is 512 unless the image is very long.
    ((480, 640), 1.0, (512, 683)),
    ((640, 480), 1.0, (683, 512)),
    ((100, 1000), 1.0, (205, 2048)),
    ((480, 640), 0.5, (256, 341)),
  ],
)
def test_fit_by_hand(size, factor, expected):
  example = ops_test.coordinates(0, size)
  got = geometric.RandomFit(
    low=factor, high=factor, long=2048, short=512, **RESIZING
  )(example, np.random.default_rng(0))
  assert got['label'].shape == expected


@pytest.mark.parametrize('factor', [0.5, 0.77, 1.313, 2.0])
@pytest.mark.parametrize('size', [(48, 60), (61, 47), (20, 199)])
def test_random_fit_equals_mmsegmentation(size, factor, monkeypatch):
  transforms = mmseg_module.load(monkeypatch, 'mmcv.transforms')
  resize = transforms.RandomResize(
    scale=(160, 40), ratio_range=(factor, factor), keep_ratio=True
  )
  rng = np.random.default_rng(0)
  example = {
    'image': rng.integers(0, 256, (*size, 3), np.uint8),
    'label': rng.integers(0, 256, size, np.uint8),
  }
  theirs = resize(
    {
      'img': example['image'],
      'img_shape': size,
      'gt_seg_map': example['label'],
      'seg_fields': ['gt_seg_map'],
    }
  )
  got = geometric.RandomFit(
    low=factor,
    high=factor,
    long=160,
    short=40,
    shrink='bilinear',
    nearest='corner',
  )(example, np.random.default_rng(0))
  np.testing.assert_array_equal(got['image'], theirs['img'])
  np.testing.assert_array_equal(got['label'], theirs['gt_seg_map'])


def test_short_side_by_hand():
  rng = np.random.default_rng(0)
  example = ops_test.coordinates(0, (20, 30))
  shapes = {
    geometric.RandomShortSide(low=9, high=11, **RESIZING)(example, rng)[
      'label'
    ].shape
    for _ in range(40)
  }
  assert shapes == {(9, 13), (10, 15), (11, 16)}
  upright = ops_test.coordinates(0, (30, 20))
  got = geometric.RandomShortSide(low=9, high=9, **RESIZING)(upright, rng)
  assert got['label'].shape == (13, 9)


def test_random_stretch_draws_the_factors_independently():
  rng = np.random.default_rng(0)
  shapes = np.array(
    [
      geometric.RandomStretch(low=1.0, high=2.0, probability=0.5, **RESIZING)(
        ops_test.coordinates(0), rng
      )['label'].shape
      for _ in range(60)
    ]
  )
  factors = shapes / SIZE
  assert factors.min() == 1.0
  assert 1.8 < factors.max() <= 2.0
  changed = factors[(factors > 1).any(1)]
  assert 20 <= len(changed) <= 40
  assert abs(np.corrcoef(changed.T)[0, 1]) < 0.5


def test_random_window_shows_its_share_of_the_image():
  rng = np.random.default_rng(0)
  spans, starts = [], []
  for _ in range(60):
    got = geometric.RandomWindow(
      share=(0.6, 0.9), center=(0.25, 0.75), probability=1, **RESIZING
    )(ops_test.coordinates(1), rng)['label']
    assert got.shape == SIZE
    spans.append(int(got.max()) - int(got.min()) + 1)
    starts.append(int(got.min()))
  # A window about 0.25 ends at the border: its half, 0.3, and 0.25 are left.
  assert 0.5 * 60 <= min(spans) < max(spans) <= 0.9 * 60 + 1
  assert min(starts) == 0 and max(starts) > 15
  example = ops_test.coordinates(1)
  same = geometric.RandomWindow(
    share=(0.6, 0.9), center=(0.5, 0.5), probability=0, **RESIZING
  )(example, rng)
  assert same is example


def test_crop_larger_than_the_image_is_the_padded_image():
  example = ops_test.coordinates(1)
  got = geometric.RandomCrop(
    size=(64, 80), max_class_share=0.5, padded=True, fill=FILL
  )(example, np.random.default_rng(0))
  assert got['label'].shape == (64, 80)
  np.testing.assert_array_equal(got['label'][:48, :60], example['label'])
  np.testing.assert_array_equal(got['image'][:48, :60], example['image'])
  assert (got['label'][48:] == 255).all()
  assert (got['label'][:, 60:] == 255).all()
  assert (got['image'][48:] == FILL).all()


def test_crop_caps_the_share_of_a_class():
  label = np.zeros((40, 40), np.uint8)
  label[:, 20:] = 1
  label[:8] = 255
  example = {'image': np.zeros((40, 40, 3), np.uint8), 'label': label}

  def shares(cap):
    rng = np.random.default_rng(1)
    result = []
    for _ in range(50):
      crop = geometric.RandomCrop(
        size=(16, 16), max_class_share=cap, padded=True, fill=FILL
      )(example, rng)['label']
      counts = np.bincount(crop[crop != 255], minlength=2)
      result.append(counts.max() / counts.sum())
    return np.array(result)

  assert (shares(1.0) > 0.75).mean() > 0.4
  # Ten tries, each over the cap with probability 0.7: 3 % stay over it.
  assert (shares(0.75) > 0.75).mean() < 0.1


def test_random_crop_equals_mmsegmentation(monkeypatch):
  """The same random numbers give the same window, the eleventh at worst."""
  transforms = mmseg_module.load(monkeypatch, 'mmseg.datasets.transforms')
  label = np.zeros((40, 50), np.uint8)
  label[:, 30:] = 1
  label[:8] = 255
  image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  drawn = []

  class Numbers:
    """A generator that records the numbers it draws."""

    def __init__(self, seed):
      self.rng = np.random.default_rng(seed)

    def integers(self, high):
      drawn.append(int(self.rng.integers(high)))
      return drawn[-1]

  lengths = set()
  for seed in range(60):
    drawn.clear()
    got = geometric.RandomCrop(
      size=(16, 20), max_class_share=0.6, padded=False, fill=FILL
    )({'image': image, 'label': label}, Numbers(seed))
    lengths.add(len(drawn) // 2)
    numbers = iter(drawn)
    monkeypatch.setattr(np.random, 'randint', lambda *_, n=numbers: next(n))
    theirs = transforms.RandomCrop((16, 20), cat_max_ratio=0.6)(
      {'img': image, 'gt_seg_map': label, 'seg_fields': ['gt_seg_map']}
    )
    np.testing.assert_array_equal(got['image'], theirs['img'])
    np.testing.assert_array_equal(got['label'], theirs['gt_seg_map'])
    assert next(numbers, None) is None
  assert {1, 11} <= lengths


def test_flip():
  example = ops_test.coordinates(1, (2, 4))
  rng = np.random.default_rng(0)
  flipped = geometric.RandomFlip(probability=1.0)(example, rng)
  assert flipped['label'][0].tolist() == [3, 2, 1, 0]
  assert geometric.RandomFlip(probability=0.0)(example, rng) is example
  upright = ops_test.coordinates(0, (3, 2))
  flipped = geometric.RandomFlipVertical(probability=1.0)(upright, rng)
  assert flipped['label'][:, 0].tolist() == [2, 1, 0]


def test_stretch_ignores_the_aspect_ratio():
  rng = np.random.default_rng(0)
  example = ops_test.coordinates(0, (6, 8))
  got = geometric.Stretch(size=(3, 16), **RESIZING)(example, rng)
  assert got['image'].shape[:2] == got['label'].shape == (3, 16)
  want = geometric.resize_example(example, (3, 16), 'area', 'center')
  np.testing.assert_array_equal(got['image'], want['image'])
