"""The FCN head."""

import jax
import jax.numpy as jnp
import pytest

from deeplab.models.heads import fcn
from tests.models.heads import head_cases

STAGES = tuple(jnp.ones((2, 2 * n, n, n)) for n in (8, 5, 3))


def shapes(module):
  return jax.eval_shape(
    lambda: module.init_with_output(jax.random.key(0), STAGES, False)
  )


@pytest.mark.parametrize(('stage', 'size'), [(0, 8), (1, 5), (2, 3)])
def test_reads_its_stage(stage, size):
  (out,), variables = shapes(fcn.FCN(num_classes=7, stage=stage, channels=4))
  assert out.shape == (2, 2 * size, size, 7)
  assert variables['params']['conv0']['conv']['kernel'].shape == (3, 3, size, 4)


def test_default_stage_has_stride_16():
  with pytest.raises(ValueError, match='stage=3 is not one of the 3 stages'):
    shapes(fcn.FCN(num_classes=7))


def test_parameters():
  _, variables = shapes(fcn.FCN(num_classes=7, stage=2, channels=4, convs=2))
  sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
  assert sum(sizes) == (9 * 3 * 4 + 8) + (9 * 4 * 4 + 8) + (4 * 7 + 7)


@pytest.mark.parametrize(
  ('channels', 'classes', 'fields', 'count'),
  [
    # torchvision's: auxiliary on ResNet-50 and MobileNetV3, and FCN's own
    # (32.956 M less 23,508,032).
    (1024, 21, {}, 2_365_205),
    (40, 21, {'channels': 10}, 3_851),
    (2048, 19, {'channels': 512}, 9_447_955),
    # mmsegmentation's on ResNet-18.
    (256, 19, {'channels': 64}, 148_819),
  ],
)
def test_published_parameters(channels, classes, fields, count):
  head = fcn.FCN(num_classes=classes, stage=0, **fields)
  _, variables = head_cases.trace(head, head_cases.features((channels,)))
  assert head_cases.count(variables) == count


@pytest.mark.parametrize('train', [False, True])
def test_dropout_in_training_only(train, dropout_calls):
  module = fcn.FCN(num_classes=7, stage=2, channels=8, dropout=0.5)
  keys = jax.random.split(jax.random.key(0), 2)
  jax.eval_shape(lambda: module.init(jax.random.key(0), STAGES, train, keys))
  ((rate, used),) = dropout_calls
  assert rate == 0.5
  assert (used is not None) == train
