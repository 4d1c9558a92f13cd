"""Mistakes that would end a training run at its start."""

import pytest

from deeplab.data import datasets
from deeplab.data.augmentation import compose
from deeplab.doctor import example_loader
from deeplab.doctor import scan
from deeplab.doctor import training_checks
from tests.data import conftest


def find_issues(config, sizes=((40, 40),) * 4):
  """Returns (kind, text) of the issues, for images of the given sizes."""
  ref = example_loader.ExampleRef('train', 'a.png', 'mask.png')
  train = scan.summarize_split(
    [scan.ExampleScan(ref, size=size) for size in sizes]
  )
  issues = training_checks.find_issues(
    train, config, datasets.Dataset(config.data)
  )
  return [(issue.kind, issue.text) for issue in issues]


def test_a_sound_config_has_no_issue(config):
  assert find_issues(config) == []
  assert find_issues(config, [(40, 40), (9, 300), (3, 5), (40, 41)]) == []
  config.loss.balance = 0.0
  config.loss.class_weights = (1.0, 2.0, 3.0)
  assert find_issues(config) == []


def test_too_few_images_for_a_batch(config):
  ((kind, text),) = find_issues(config, [(40, 40)] * 3)
  assert kind == 'batch'
  assert text == (
    "batch_size=4 is more than the 3 examples of split 'train'; lower "
    'batch_size'
  )
  config.batch_size = 1
  ((kind, text),) = find_issues(config)
  assert kind == 'batch'
  assert 'pooled features have no variance; raise batch_size' in text
  config.accumulate_steps = 0
  ((kind, text),) = find_issues(config)
  assert text == 'config.accumulate_steps=0 must be greater than 0'
  config.batch_size, config.accumulate_steps = 4, 1
  # No example at all is reported as missing files.
  assert find_issues(config, []) == []


@pytest.mark.parametrize(
  ('ops', 'sizes', 'batch'),
  [
    (('random_flip',), [(40, 40)] * 4, True),
    (('random_flip',), [(40, 40)] * 3 + [(40, 41)], False),
    (('random_scale',), [(40, 40)] * 4, False),
    (('random_scale', 'pad'), [(40, 40)] * 4, False),
    (('random_scale', 'stretch'), [(40, 40), (7, 9)] * 2, True),
    (('random_crop',), [(40, 40), (7, 9)] * 2, True),
    (('pad',), [(10, 10), (7, 9)] * 2, True),
  ],
)
def test_images_of_several_sizes(config, root, ops, sizes, batch):
  """Training accepts and rejects the same files."""
  config.data.augment.ops = ops
  got = find_issues(config, sizes)
  assert [kind for kind, _ in got] == ([] if batch else ['sizes'])
  for i, size in enumerate(sizes):
    conftest.write_pair(root / 'train', f'img{i}', i, size)
  for kind in ('images', 'labels'):
    (root / 'train' / kind / 'img4.png').unlink()
  stream = datasets.Dataset(config.data).train_batches(
    seed=config.seed, batch_size=config.batch_size
  )
  if batch:
    next(stream)
  else:
    with pytest.raises(ValueError, match='do not make a batch'):
      next(stream)
  stream.close()


def test_three_of_many_sizes_are_named():
  with pytest.raises(ValueError, match=r'\(1, 3\)\] and 7 more do not make'):
    compose.require_same_size([(1, i) for i in range(1, 11)])


@pytest.mark.parametrize(
  'op', ['photometric', 'distort', 'brightness_contrast']
)
@pytest.mark.parametrize(
  ('channels', 'depth', 'words'),
  [
    (3, 8, ''),
    (1, 8, '1 channels of uint8'),
    (5, 8, '5 channels of uint8'),
    (3, 16, '3 channels of uint16'),
  ],
)
def test_colour_ops_need_8_bit_rgb(config, op, channels, depth, words):
  config.data.mean = config.data.std = (9.0,) * channels
  config.data.depth = depth
  config.data.augment.ops = ('random_crop', op)
  got = find_issues(config)
  assert [kind for kind, _ in got] == (['augment'] if words else [])
  if words:
    assert got[0][1] == (
      f'{op} distorts RGB images of 8 bits; these have {words}: take it out of '
      'config.data.augment.ops'
    )


def test_unknown_ops_and_parameters(config):
  config.data.augment.ops = ('random_crop', 'random_flop')
  ((kind, text),) = find_issues(config)
  assert kind == 'augment'
  assert text.startswith("config.data.augment names 'random_flop', which is")
  config.data.augment.ops = ('random_scale', 'random_crop')
  config.data.augment.shrink = 'cubic'
  ((kind, text),) = find_issues(config)
  assert kind == 'augment'
  assert "config.data.augment.shrink='cubic' is not one of" in text


def test_class_weights(config):
  config.loss.class_weights = (1.0, 2.0)
  config.loss.balance = 0.0
  expected = (
    'loss.class_weights has 2 weights for 3 classes; give one for each class, '
    'or () for none'
  )
  assert find_issues(config) == [('weights', expected)]
  config.loss.balance = 0.5
  ((kind, text),) = find_issues(config)
  assert kind == 'weights'
  assert text.endswith('already: set one of the two')
