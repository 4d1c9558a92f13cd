"""Every op of `compose.OPS` keeps the promises of `base.Op`.

Ops are built from the defaults in `configs/common.py`, so a new op is tested
here as soon as it is registered. What an op computes is tested in the file of
its module.
"""

import dataclasses

import numpy as np
import pytest

from configs import common
from deeplab.data.augmentation import compose
from deeplab.data.augmentation import geometric
from deeplab.data.augmentation import lazy_image
from deeplab.data.augmentation import photometric

FILL = (10.0, 20.0, 30.0)
SIZE = (48, 60)
# In place of defaults: sizes that suit images of SIZE, and a visible angle.
FIELDS = {
  'pad.size': (64, 64),
  'random_crop.size': (32, 40),
  'random_fit.long': 80,
  'random_fit.short': 50,
  'random_short_side.low': 30,
  'random_short_side.high': 90,
  'random_rotate.degrees': 30.0,
  'stretch.size': (37, 71),
}
WITH_PROBABILITY = [
  name
  for name, op in compose.OPS.items()
  if 'probability' in op.__dataclass_fields__
]


def config(*ops, **fields):
  c = common.default_config().data.augment
  c.ops = ops
  c.update_from_flattened_dict(FIELDS | fields)
  return c


def build(name, fill=FILL, **fields):
  """Builds an op that acts on every example."""
  (op,) = compose.compose_ops(config(name, **fields), fill).ops
  if hasattr(op, 'probability'):
    op = dataclasses.replace(op, probability=1.0)
  return op


def coordinates(axis, size=SIZE):
  """An example whose label is a coordinate, and whose image is 4 times it."""
  label = np.broadcast_to(np.indices(size)[axis], size).astype(np.uint8)
  return {
    'image': np.repeat(4 * label[..., None], 3, axis=2),
    'label': label.copy(),
    'name': 'x',
  }


def noise(seed=0):
  """An example of random pixels and labels."""
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (*SIZE, 3), np.uint8),
    'label': rng.integers(0, 5, SIZE, np.uint8),
    'name': 'x',
  }


def assert_equal(got, expected):
  assert set(got) == set(expected)
  np.testing.assert_array_equal(got['image'], expected['image'])
  np.testing.assert_array_equal(got['label'], expected['label'])


def test_every_op_has_defaults_and_every_default_has_an_op():
  defaults = common.default_config().data.augment
  sections = {name for name in defaults if hasattr(defaults[name], 'keys')}
  with_parameters = {
    name
    for name, op in compose.OPS.items()
    if {field.name for field in dataclasses.fields(op)}
    - {'fill', 'shrink', 'nearest'}
  }
  assert sections == with_parameters


@pytest.mark.parametrize('name', compose.OPS)
def test_results_depend_on_the_generator_alone(name):
  example, copy = noise(), noise()
  op, again = build(name), build(name)
  assert op == again
  results = [op(example, np.random.default_rng(seed)) for seed in range(4)]
  assert_equal(example, copy)  # nothing was changed in place
  for seed, result in enumerate(results):
    assert result['name'] == 'x'
    assert result['image'].dtype == result['label'].dtype == np.uint8
    assert result['image'].shape == (*result['label'].shape, 3)
    assert_equal(again(example, np.random.default_rng(seed)), result)


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('shrink', ['area', 'bilinear'])
@pytest.mark.parametrize('name', geometric.OPS)
def test_image_and_label_move_together(name, shrink, seed, axis):
  op = build(name, shrink=shrink)
  after = op(coordinates(axis), np.random.default_rng(seed))
  image, label = after['image'], after['label']
  # Bilinear filtering mixes in the border's color within a pixel of it.
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
  assert abs(error).max() <= 0.9  # nearest neighbor: half a pixel, turned
  assert abs(error.mean()) < 0.15  # no shift between the two


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('name', geometric.OPS)
def test_channels_are_processed_independently(name, dtype):
  """Seven channels as one image, and one at a time."""
  image = np.random.default_rng(0).integers(0, 256, (*SIZE, 7)).astype(dtype)
  image *= np.iinfo(dtype).max // 255
  label = np.zeros(SIZE, np.uint8)
  fill = tuple(range(10, 80, 10))

  def move(channels):
    op = build(name, fill[channels])
    example = {'image': image[..., channels], 'label': label}
    return op(example, np.random.default_rng(3))['image']

  got = move(slice(0, 7))
  assert got.dtype == dtype
  for i in range(7):
    alone = move(slice(i, i + 1))
    assert alone.shape == (*got.shape[:2], 1)
    # OpenCV's kernels for one channel and for four round differently.
    np.testing.assert_allclose(
      got[..., i], alone[..., 0], atol=np.iinfo(dtype).max // 255
    )


@pytest.mark.parametrize('name', photometric.OPS)
def test_pixels_change_and_labels_do_not(name):
  example = noise()
  op = build(name)
  changed = 0
  for seed in range(20):
    got = op(example, np.random.default_rng(seed))
    assert got['label'] is example['label']
    assert got['image'].shape == example['image'].shape
    changed += int((got['image'] != example['image']).any())
  assert changed >= 15


@pytest.mark.parametrize('name', WITH_PROBABILITY)
def test_probability_0_changes_nothing(name):
  never = dataclasses.replace(build(name), probability=0.0)
  example = noise()
  for seed in range(4):
    assert_equal(never(example, np.random.default_rng(seed)), example)


@pytest.mark.parametrize('name', compose.OPS)
@pytest.mark.parametrize('size', [(30, 50), (64, 20)])
def test_size_after_brackets_the_sizes_that_are_drawn(name, size):
  fields = {f'{op}.size': (33, 41) for op in ('pad', 'random_crop', 'stretch')}
  fields |= {'random_fit.long': 60, 'random_fit.short': 40}
  fields |= {'random_short_side.low': 10, 'random_short_side.high': 13}
  ops = compose.compose_ops(config(name, **fields), (0, 0, 0))
  example = {
    'image': np.zeros((*size, 3), np.uint8),
    'label': np.zeros(size, np.uint8),
  }
  rng = np.random.default_rng(0)
  made = [ops(example, rng)['label'].shape for _ in range(60)]
  least, most = (ops.size_after(size, quantile) for quantile in (0.0, 1.0))
  # Reached to a tenth, at both ends.
  assert np.less_equal(least, np.min(made, axis=0)).all()
  assert np.less_equal(np.max(made, axis=0), most).all()
  np.testing.assert_allclose(np.min(made, axis=0), least, rtol=0.1)
  np.testing.assert_allclose(np.max(made, axis=0), most, rtol=0.1)


@pytest.mark.parametrize('first', [(), ('random_scale',)])
@pytest.mark.parametrize('name', compose.OPS)
def test_lazy_images_become_what_arrays_become(name, first):
  ops = compose.compose_ops(config(*first, name), FILL)
  for seed in range(4):
    eager = noise(seed)
    lazy = eager | {'image': lazy_image.wrap_image(eager['image'])}
    expected = ops(eager, np.random.default_rng(seed))
    got = ops(lazy, np.random.default_rng(seed))
    assert isinstance(got['image'], np.ndarray)
    np.testing.assert_array_equal(got['label'], expected['label'])
    # A window of a resized image is interpolated on its own.
    np.testing.assert_allclose(
      got['image'].astype(int), expected['image'], atol=1 if first else 0
    )
