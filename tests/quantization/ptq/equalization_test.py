"""Cross-layer equalization: equal ranges, the same function."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import shapes_mnv2
from deeplab.models import layers
from deeplab.models import segmenter
from deeplab.quantization import rules
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import calibration
from deeplab.quantization.ptq import equalization

STILL = {'mean': (0.0,) * 3, 'std': (1.0,) * 3}
NORM = layers.BatchNormConfig(0.9, 1e-3)


class Net(nn.Module):
  """A pointwise convolution, and a depthwise one that reads it."""

  activation: str = 'relu6'
  tapped: bool = False  # the map between them is part of the output
  multiplier: int = 1  # channels that the depthwise one makes of each
  biased: bool = False  # the first convolution, before its BatchNorm
  readers: int = 1  # depthwise convolutions

  @nn.compact
  def __call__(self, images):
    x = layers.ConvBN(
      4,
      norm=NORM,
      activation=self.activation,
      use_bias=self.biased,
      name='expand',
    )(images, False)
    names = ('depthwise', 'second')[: self.readers]
    y = sum(
      layers.ConvBN(
        4 * self.multiplier, norm=NORM, kernel=3, groups=4, name=name
      )(x, False)
      for name in names
    )
    return segmenter.SegmenterOutput(y + x if self.tapped else y)


def _images():
  rng = np.random.default_rng(0)
  return list(rng.uniform(0, 1, (4, 9, 8, 3)).astype(np.float32))


def _variables(net):
  variables = jax.jit(net.init)(jax.random.key(0), np.stack(_images()))
  variables = jax.tree.map(np.array, variables)
  # Channels whose ranges are 1, 1/10, 1/100, and one that is never used.
  kernel = np.abs(variables['params']['expand']['conv']['kernel'])
  kernel *= np.float32([1, 0.1, 0.01, 0]) / kernel.sum((0, 1, 2))
  first = variables['params']['expand']
  first['conv']['kernel'] = kernel
  # What is added has the range of its channel.
  first['norm']['bn']['bias'] = np.float32([-0.2, -0.02, -0.002, 0])
  if net.biased:
    first['conv']['bias'] = np.float32([0.1, 0.01, 0.001, 0])
  return batch_norm_folding.fold_batch_norms(net, variables)


def _largest(net, variables):
  """Returns the largest value of each channel between the convolutions."""
  _, state = net.apply(
    variables,
    np.stack(_images()),
    capture_intermediates=lambda module, _: module.name == 'expand',
  )
  (found,) = state['intermediates']['expand']['__call__']
  return np.asarray(found).max((0, 1, 2))


@pytest.mark.parametrize(
  'net',
  [
    Net(),
    Net('relu'),
    Net('none'),
    Net(multiplier=2),
    Net(biased=True),
  ],
  ids=['relu6', 'relu', 'none', 'multiplier', 'biased'],
)
def test_equalizes_ranges_and_keeps_the_function(net):
  variables = _variables(net)
  found = equalization.equalize_channels(net, variables, _images(), **STILL)
  before, after = _largest(net, variables), _largest(net, found)
  assert before[2] < 0.02 * before[0]
  # A hundredth is further than the largest factor, 64.
  np.testing.assert_allclose(after[1], after[0], rtol=1e-4)
  np.testing.assert_allclose(after[2], 64 * before[2], rtol=1e-4)
  assert (after[0], after[3]) == (before[0], 0)
  x = np.stack(_images())
  one, two = (np.asarray(net.apply(v, x).logits) for v in (variables, found))
  np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
  assert not np.array_equal(
    variables['params']['depthwise']['conv']['kernel'],
    found['params']['depthwise']['conv']['kernel'],
  )


@pytest.mark.parametrize(
  'net',
  [Net('hard_swish'), Net(tapped=True), Net(readers=2)],
  ids=['hard_swish', 'tapped', 'two readers'],
)
def test_skips_pairs_that_would_change_the_function(net):
  variables = _variables(net)
  found = equalization.equalize_channels(net, variables, _images(), **STILL)
  jax.tree.map(np.testing.assert_array_equal, variables, found)


def test_relu6_keeps_a_margin():
  """Channels at 6 stay; smaller ones go to nine tenths of it."""
  net = Net('relu6')
  variables = _variables(net)
  kernel = variables['params']['expand']['conv']['kernel']
  variables['params']['expand']['conv']['kernel'] = kernel * 20
  found = equalization.equalize_channels(net, variables, _images(), **STILL)
  before, after = _largest(net, variables), _largest(net, found)
  assert before[0] == after[0] == 6
  np.testing.assert_allclose(after[1], 5.4, rtol=1e-4)


def test_skips_kernels_with_one_scale():
  """A depthwise kernel would lose the precision that its input gains."""
  net, config = Net(), shapes_mnv2.get_config('smoke').unlock()
  config.data.update({'mean': STILL['mean'], 'std': STILL['std']})
  variables = _variables(net)

  def changed(weights, equalized=True):
    config.quantization.calibration.equalize = equalized
    found = calibration.fold_and_equalize(
      net, rules.Rules(weights=weights), variables, _images(), config
    )
    kernels = (v['params']['depthwise']['conv'] for v in (variables, found))
    return not np.allclose(*(k['kernel'] for k in kernels))

  assert changed('channel')
  assert not changed('tensor')
  assert not changed('channel', equalized=False)
