"""Several ops in a row, and how a config names them."""

from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import common
from deeplab.data.augmentation import compose

FILL = (10.0, 20.0, 30.0)


@pytest.mark.parametrize(
  ('ops', 'size'),
  [
    ((), None),
    (('random_scale', 'random_crop', 'random_flip'), (7, 9)),
    (('stretch', 'random_stretch'), None),
    (('stretch', 'random_rotate'), (5, 6)),
    (('stretch', 'random_fit', 'random_crop'), (7, 9)),
    (('random_crop', 'pad'), (7, 9)),
    (('pad',), None),
  ],
)
def test_output_size(ops, size):
  config = common.default_config().data.augment
  config.ops = ops
  config.random_crop.size, config.stretch.size = (7, 9), (5, 6)
  assert compose.fixed_output_size(config) == size


def test_compose_runs_in_order():
  config = ConfigDict(
    {
      'ops': ('random_flip', 'pad'),
      'random_flip': {'probability': 1.0},
      'pad': {'size': (2, 6)},
    }
  )
  apply = compose.compose_ops(config, FILL)
  label = np.array([[0, 1, 2, 3]] * 2, np.uint8)
  example = {'image': label[..., None].repeat(3, 2), 'label': label}
  got = apply(example, np.random.default_rng(0))
  assert got['label'][0].tolist() == [3, 2, 1, 0, 255, 255]
  assert got['image'][0, 4].tolist() == [10, 20, 30]


def test_padding_may_come_after_the_colors():
  """As in mmsegmentation: colors of the image change, the border's do not."""
  config = common.default_config().data.augment
  config.ops = ('random_crop', 'random_flip', 'photometric', 'pad')
  config.random_crop.size = (40, 50)
  config.random_crop.padded = False
  config.random_flip.probability = 1.0
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (24, 60, 3), np.uint8)
  label = np.arange(60, dtype=np.uint8)[None].repeat(24, 0)
  example = {'image': image, 'label': label}
  apply = compose.compose_ops(config, FILL)
  for seed in range(8):
    got = apply(example, np.random.default_rng(seed))
    assert got['image'].shape == (40, 50, 3)
    assert (got['image'][24:] == FILL).all()
    assert (got['label'][24:] == 255).all()
    left = int(got['label'][0, 49])
    mirrored = label[:, left : left + 50][:, ::-1]
    np.testing.assert_array_equal(got['label'][:24], mirrored)
  # Padded first, the border would be distorted along.
  config.random_crop.padded = True
  apply = compose.compose_ops(config, FILL)
  borders = [
    apply(example, np.random.default_rng(seed))['image'][24:]
    for seed in range(8)
  ]
  assert any((border != FILL).any() for border in borders)
  assert compose.fixed_output_size(config) == (40, 50)
  config.random_crop.padded = False
  assert compose.fixed_output_size(config) == (40, 50)
  config.ops = ('random_crop',)
  assert compose.fixed_output_size(config) is None


@pytest.mark.parametrize('op', ['pad', 'random_crop', 'random_rotate'])
def test_uncovered_pixels_are_filled(op):
  config = common.default_config().data.augment
  config.ops = (op,)
  config.pad.size = config.random_crop.size = (9, 12)
  config.random_rotate.update({'degrees': 60.0, 'probability': 1.0})
  example = {
    'image': np.full((9, 9, 3), 200, np.uint8),
    'label': np.zeros((9, 9), np.uint8),
  }

  def corner():
    got = compose.compose_ops(config, FILL)(example, np.random.default_rng(3))
    assert got['label'][0, -1] == 255
    return got['image'][0, -1].tolist()

  assert corner() == [10, 20, 30]
  config.fill = (0.0, 0.0, 0.0)
  assert corner() == [0, 0, 0]
  config.fill = (1.0, 0.0, 255.0)
  assert corner() == [1, 0, 255]


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (
      {'ops': (), 'fill': (0.0,)},
      r'fill=\(0.0,\) is not a value for each of the 3 channels',
    ),
    (
      {'ops': ('random_flop',)},
      "'random_flop', which is not one of brightness_contrast, ",
    ),
    (
      {'ops': (), 'random_flop': {'probability': 1.0}},
      "'random_flop', which is not one of",
    ),
    ({'ops': ('random_flip',)}, r"takes \['probability'\]"),
    (
      {'ops': ('random_flip',), 'random_flip': {'probabilty': 1.0}},
      r"\['probabilty'\]; random_flip takes \['probability'\]",
    ),
  ],
)
def test_mistakes_in_a_config_are_named(config, message):
  with pytest.raises(ValueError, match=message):
    compose.compose_ops(ConfigDict(config), FILL)


def test_unknown_ops_are_skipped_where_only_sizes_count():
  """The doctor follows sizes through configs that training rejects."""
  config = common.default_config().data.augment
  config.ops = ('random_flop', 'random_crop', 'random_flip')
  config.random_flip = ConfigDict({'probabilty': 1.0})
  (crop,) = compose.compose_known_ops(config).ops
  assert crop.size == (257, 257)
  with pytest.raises(ValueError, match="'random_flop', which is not one of"):
    compose.fixed_output_size(config)
