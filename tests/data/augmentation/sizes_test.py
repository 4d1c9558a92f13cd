"""Arithmetic of sizes, by hand."""

from configs import common
from deeplab.data.augmentation import compose


def size_after(config, ops, size, quantile):
  config.ops = ops
  return compose.compose_ops(config, (0, 0, 0)).size_after(size, quantile)


def test_quantiles_by_hand():
  config = common.default_config().data.augment
  ops = ('random_stretch',)
  # Half of the examples stay; the others are 1 to 2 times as large.
  assert [
    size_after(config, ops, (10, 20), quantile)
    for quantile in (0.0, 0.5, 0.75, 1.0)
  ] == [(10, 20), (10, 20), (15, 30), (20, 40)]
  config.random_stretch.probability = 0.0
  assert size_after(config, ops, (10, 20), 1.0) == (10, 20)
  both = ('random_scale', 'random_short_side')
  # (188, 250), and then 260 / 188 times as large.
  assert size_after(config, both, (375, 500), 0.0) == (260, 345)
