"""Sizes that the doctor expects, against those that the ops make."""

import numpy as np
import pytest

from configs import common
from deeplab.data.augmentation import compose
from deeplab.data.augmentation import sizes

OPS = (
  *('random_fit', 'random_scale', 'random_short_side', 'random_stretch'),
  *('pad', 'random_crop', 'random_flip', 'stretch', 'random_window'),
)


@pytest.mark.parametrize('name', OPS)
@pytest.mark.parametrize('size', [(30, 50), (64, 20)])
def test_what_ops_make_lies_between_the_quantiles(name, size):
  config = common.default_config().data.augment
  config.ops = (name,)
  config.random_fit.long, config.random_fit.short = 60, 40
  config.random_short_side.low, config.random_short_side.high = 10, 13
  for op in ('pad', 'random_crop', 'stretch'):
    config[op].size = (33, 41)
  apply = compose.compose_ops(config, (0, 0, 0))
  example = {
    'image': np.zeros((*size, 3), np.uint8),
    'label': np.zeros(size, np.uint8),
  }
  rng = np.random.default_rng(0)
  made = [apply(example, rng)['label'].shape for _ in range(60)]
  least, most = (
    sizes.size_after_ops(config, config.ops, size, quantile)
    for quantile in (0.0, 1.0)
  )
  # Reached to a tenth, at both ends.
  assert np.less_equal(least, np.min(made, axis=0)).all()
  assert np.less_equal(np.max(made, axis=0), most).all()
  np.testing.assert_allclose(np.min(made, axis=0), least, rtol=0.1)
  np.testing.assert_allclose(np.max(made, axis=0), most, rtol=0.1)


def test_quantiles_by_hand():
  config = common.default_config().data.augment
  ops = ('random_stretch',)
  # Half of the examples stay; the others are 1 to 2 times as large.
  assert [
    sizes.size_after_ops(config, ops, (10, 20), quantile)
    for quantile in (0.0, 0.5, 0.75, 1.0)
  ] == [(10, 20), (10, 20), (15, 30), (20, 40)]
  config.random_stretch.probability = 0.0
  assert sizes.size_after_ops(config, ops, (10, 20), 1.0) == (10, 20)
  both = ('random_scale', 'random_short_side')
  # (188, 250), and then 260 / 188 times as large.
  assert sizes.size_after_ops(config, both, (375, 500), 0.0) == (260, 345)
