"""Ops that move pixels: image and label stay aligned."""

import numpy as np
import pytest

from deeplab.data.augmentation import compose
from deeplab.data.augmentation import geometric
from tests import mmseg_module

FILL = (10.0, 20.0, 30.0)
SIZE = (48, 60)

# Every op that moves pixels, with parameters that make it act.
MOVES = {
  'pad': {'size': (64, 64), 'fill': FILL},
  'random_crop': {
    'size': (32, 40),
    'max_class_share': 1.0,
    'padded': True,
    'fill': FILL,
  },
  'random_fit': {
    'low': 0.5,
    'high': 2.0,
    'long': 80,
    'short': 50,
    'shrink': 'area',
    'nearest': 'center',
  },
  'random_flip': {'probability': 1.0},
  'random_flip_vertical': {'probability': 1.0},
  'random_rotate': {'degrees': 30.0, 'probability': 1.0, 'fill': FILL},
  'random_scale': {
    'low': 0.5,
    'high': 2.0,
    'step': 0.0,
    'shrink': 'bilinear',
    'nearest': 'center',
  },
  'random_short_side': {
    'low': 30,
    'high': 90,
    'shrink': 'area',
    'nearest': 'center',
  },
  'random_stretch': {
    'low': 1.0,
    'high': 2.0,
    'probability': 1.0,
    'shrink': 'area',
    'nearest': 'center',
  },
  'random_window': {
    'share': (0.6, 0.9),
    'center': (0.25, 0.75),
    'probability': 1.0,
    'shrink': 'area',
    'nearest': 'center',
  },
}


def coordinates(axis, size=SIZE):
  """An example whose label is a coordinate, and whose image is 4 times it."""
  label = np.broadcast_to(np.indices(size)[axis], size).astype(np.uint8)
  return {
    'image': np.repeat(4 * label[..., None], 3, axis=2),
    'label': label.copy(),
    'name': 'x',
  }


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('name', MOVES)
def test_image_and_label_move_together(name, seed, axis):
  before = coordinates(axis)
  copies = before['image'].copy(), before['label'].copy()
  after = compose.OPS[name](before, np.random.default_rng(seed), **MOVES[name])
  np.testing.assert_array_equal(before['image'], copies[0])
  np.testing.assert_array_equal(before['label'], copies[1])
  assert after['name'] == 'x'
  image, label = after['image'], after['label']
  assert image.dtype == label.dtype == np.uint8
  assert image.shape == (*label.shape, 3)
  # Bilinear filtering mixes in the border's colour within a pixel of it.
  inside = label != 255
  if name == 'random_rotate':
    padded = np.pad(inside, 1, constant_values=False)
    inside = np.logical_and.reduce(
      [
        padded[i : i + label.shape[0], j : j + label.shape[1]]
        for i in range(3)
        for j in range(3)
      ]
    )
  assert inside.mean() > 0.4
  error = image[inside][:, 0] / 4 - label[inside]
  assert abs(error).max() <= 0.9  # nearest neighbour: half a pixel, turned
  assert abs(error.mean()) < 0.15  # no shift between the two


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('name', MOVES)
def test_channels_move_alike(name, dtype):
  """Seven channels as one image, and one at a time."""
  image = np.random.default_rng(0).integers(0, 256, (*SIZE, 7)).astype(dtype)
  image *= np.iinfo(dtype).max // 255
  label = np.zeros(SIZE, np.uint8)
  fill = tuple(range(10, 80, 10))

  def move(channels):
    parameters = dict(MOVES[name])
    if 'fill' in parameters:
      parameters['fill'] = fill[channels]
    example = {'image': image[..., channels], 'label': label}
    rng = np.random.default_rng(3)
    return compose.OPS[name](example, rng, **parameters)['image']

  got = move(slice(0, 7))
  assert got.dtype == dtype
  for i in range(7):
    alone = move(slice(i, i + 1))
    assert alone.shape == (*got.shape[:2], 1)
    # OpenCV's kernels for one channel and for four round apart.
    np.testing.assert_allclose(
      got[..., i], alone[..., 0], atol=np.iinfo(dtype).max // 255
    )


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


def test_shrinking_averages_what_it_covers():
  row = np.array([0, 0, 0, 240, 0, 0, 240, 240], np.uint8)
  label = np.zeros((8, 8), np.uint8)
  image = np.tile(row[None, :, None], (8, 1, 3))
  quarter = geometric.resize_example(
    {'image': image, 'label': label}, (2, 2), 'area', 'center'
  )
  # Each pixel is the mean of 16; two neighbours would give 0 and 120.
  assert quarter['image'][0, :, 0].tolist() == [60, 120]


@pytest.mark.parametrize('size', [(11, 9), (5, 17), (24, 30)])
def test_bilinear_shrinking_looks_at_two_neighbours_a_side(size):
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


def test_a_crop_may_leave_what_is_smaller():
  example = coordinates(1)  # 48x60
  got = geometric.random_crop(
    example,
    np.random.default_rng(0),
    size=(64, 40),
    max_class_share=1.0,
    padded=False,
    fill=FILL,
  )
  assert got['image'].shape == (48, 40, 3)
  first = int(got['label'][0, 0])
  np.testing.assert_array_equal(
    got['label'], example['label'][:, first : first + 40]
  )


def test_scale_steps():
  rng = np.random.default_rng(0)
  heights = {
    geometric.random_scale(
      coordinates(0),
      rng,
      low=0.5,
      high=1.0,
      step=0.25,
      shrink='area',
      nearest='center',
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
  example = coordinates(0, size)
  got = geometric.random_fit(
    example,
    np.random.default_rng(0),
    low=factor,
    high=factor,
    long=2048,
    short=512,
    shrink='area',
    nearest='center',
  )
  assert got['label'].shape == expected


@pytest.mark.parametrize('factor', [0.5, 0.77, 1.313, 2.0])
@pytest.mark.parametrize('size', [(48, 60), (61, 47), (20, 199)])
def test_fit_is_mmsegmentation_s(size, factor, monkeypatch):
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
  got = geometric.random_fit(
    example,
    np.random.default_rng(0),
    low=factor,
    high=factor,
    long=160,
    short=40,
    shrink='bilinear',
    nearest='corner',
  )
  np.testing.assert_array_equal(got['image'], theirs['img'])
  np.testing.assert_array_equal(got['label'], theirs['gt_seg_map'])


def test_short_side_by_hand():
  rng = np.random.default_rng(0)
  example = coordinates(0, (20, 30))
  shapes = {
    geometric.random_short_side(
      example, rng, low=9, high=11, shrink='area', nearest='center'
    )['label'].shape
    for _ in range(40)
  }
  assert shapes == {(9, 13), (10, 15), (11, 16)}
  upright = coordinates(0, (30, 20))
  got = geometric.random_short_side(
    upright, rng, low=9, high=9, shrink='area', nearest='center'
  )
  assert got['label'].shape == (13, 9)


def test_stretch_draws_each_side_apart():
  rng = np.random.default_rng(0)
  shapes = np.array(
    [
      geometric.random_stretch(
        coordinates(0),
        rng,
        low=1.0,
        high=2.0,
        probability=0.5,
        shrink='area',
        nearest='center',
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


def test_window_shows_its_share_of_the_image():
  rng = np.random.default_rng(0)
  spans, starts = [], []
  for _ in range(60):
    got = geometric.random_window(
      coordinates(1),
      rng,
      share=(0.6, 0.9),
      center=(0.25, 0.75),
      probability=1,
      shrink='area',
      nearest='center',
    )['label']
    assert got.shape == SIZE
    spans.append(int(got.max()) - int(got.min()) + 1)
    starts.append(int(got.min()))
  # A window about 0.25 ends at the border: its half, 0.3, and 0.25 are left.
  assert 0.5 * 60 <= min(spans) < max(spans) <= 0.9 * 60 + 1
  assert min(starts) == 0 and max(starts) > 15
  example = coordinates(1)
  same = geometric.random_window(
    example,
    rng,
    share=(0.6, 0.9),
    center=(0.5, 0.5),
    probability=0,
    shrink='area',
    nearest='center',
  )
  assert same is example


def test_crop_larger_than_the_image_is_the_padded_image():
  example = coordinates(1)
  got = geometric.random_crop(
    example,
    np.random.default_rng(0),
    size=(64, 80),
    max_class_share=0.5,
    padded=True,
    fill=FILL,
  )
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
      crop = geometric.random_crop(
        example, rng, size=(16, 16), max_class_share=cap, padded=True, fill=FILL
      )['label']
      counts = np.bincount(crop[crop != 255], minlength=2)
      result.append(counts.max() / counts.sum())
    return np.array(result)

  assert (shares(1.0) > 0.75).mean() > 0.4
  # Ten tries, each over the cap with probability 0.7: 3 % stay over it.
  assert (shares(0.75) > 0.75).mean() < 0.1


def test_crops_are_drawn_as_mmsegmentation_draws_them(monkeypatch):
  """Of the same numbers the same window, the last of eleven at worst."""
  transforms = mmseg_module.load(monkeypatch, 'mmseg.datasets.transforms')
  label = np.zeros((40, 50), np.uint8)
  label[:, 30:] = 1
  label[:8] = 255
  image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  drawn = []

  class Numbers:
    """Draws, and keeps what it drew."""

    def __init__(self, seed):
      self.rng = np.random.default_rng(seed)

    def integers(self, high):
      drawn.append(int(self.rng.integers(high)))
      return drawn[-1]

  lengths = set()
  for seed in range(60):
    drawn.clear()
    got = geometric.random_crop(
      {'image': image, 'label': label},
      Numbers(seed),
      size=(16, 20),
      max_class_share=0.6,
      padded=False,
      fill=FILL,
    )
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
  example = coordinates(1, (2, 4))
  rng = np.random.default_rng(0)
  flipped = geometric.random_flip(example, rng, probability=1.0)
  assert flipped['label'][0].tolist() == [3, 2, 1, 0]
  assert geometric.random_flip(example, rng, probability=0.0) is example
  upright = coordinates(0, (3, 2))
  flipped = geometric.random_flip_vertical(upright, rng, probability=1.0)
  assert flipped['label'][:, 0].tolist() == [2, 1, 0]


def test_stretch_has_its_size_whatever_the_ratio():
  rng = np.random.default_rng(0)
  example = coordinates(0, (6, 8))
  got = geometric.stretch(
    example, rng, size=(3, 16), shrink='area', nearest='center'
  )
  assert got['image'].shape[:2] == got['label'].shape == (3, 16)
  want = geometric.resize_example(example, (3, 16), 'area', 'center')
  np.testing.assert_array_equal(got['image'], want['image'])
