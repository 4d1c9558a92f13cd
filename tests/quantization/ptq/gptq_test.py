import flax.linen as nn
import jax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.quantization import rules
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import gptq

RULES = rules.Rules()
STILL = {'mean': (0.0,) * 8, 'std': (1.0,) * 8}


class Single(nn.Module):
  """One convolution of 8 channels."""

  fields: tuple[tuple[str, int], ...] = ()

  @nn.compact
  def __call__(self, images):
    return layers.Conv(16, name='conv', **dict(self.fields))(images)


def _images(count=6, seed=0):
  """Returns images whose channels are alike, as neighboring pixels are."""
  mixed = np.random.default_rng(2).normal(size=(8, 8)) * 0.3 + np.eye(8)
  rng = np.random.default_rng(seed)
  small = rng.uniform(0, 6, (count, 6, 5, 8)) @ mixed
  return np.repeat(np.repeat(small, 3, 1), 3, 2).astype(np.float32)


def _variables(network):
  variables = jax.jit(network.init)(jax.random.key(0), _images()[:1])
  return {'params': jax.tree.map(np.asarray, variables['params'])} | {
    'batch_stats': {}
  }


def _kernel(variables):
  return variables['params']['conv']['kernel']


def _scale(kernel, weights='channel'):
  axes = (0, 1, 2) if weights == 'channel' else None
  return np.abs(kernel.astype(np.float64)).max(axes, keepdims=True) / 127


def _nearest(variables, weights='channel'):
  kernel = _kernel(variables)
  scale = _scale(kernel, weights)
  whole = (np.rint(kernel / scale) * scale).astype(np.float32)
  return {**variables, 'params': {'conv': {'kernel': whole}}}


def _error(network, variables, other, images):
  """Returns the mean squared difference of two outputs."""
  one, two = (
    np.asarray(network.apply(v, images), np.float64) for v in (variables, other)
  )
  return np.mean((one - two) ** 2)


CONVOLUTIONS = {
  'pointwise': {},
  'strided': {'kernel': 3, 'stride': 2},
  'atrous': {'kernel': 3, 'rate': 2},
  'depthwise': {'kernel': 3, 'groups': 8},
  'grouped': {'kernel': 3, 'groups': 2},
}


@pytest.mark.parametrize('weights', ['channel', 'tensor'])
@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_outputs_change_less_than_by_rounding_to_nearest(name, weights):
  network = Single(tuple(CONVOLUTIONS[name].items()))
  variables = _variables(network)
  found = gptq.round_kernels_gptq(
    network, rules.Rules(weights=weights), variables, _images(), **STILL
  )
  # Whole steps, of the scale that the kernel had.
  scale = _scale(_kernel(variables), weights)
  steps = _kernel(found) / scale
  np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
  np.testing.assert_allclose(_scale(_kernel(found), weights), scale, rtol=1e-6)
  # On other images, too.
  for images in (_images(), _images(seed=1)):
    nearest = _error(network, variables, _nearest(variables, weights), images)
    assert _error(network, variables, found, images) < 0.5 * nearest


def test_an_edge_filter_ignores_flat_areas():
  network = Single((('kernel', 3), ('groups', 8)))
  variables = _variables(network)
  kernel = np.array(_kernel(variables))
  kernel -= kernel.mean((0, 1), keepdims=True)  # edges alone
  variables['params']['conv']['kernel'] = kernel
  flat = np.full((3, 12, 12, 8), 6, np.float32)
  flat += np.random.default_rng(0).normal(0, 0.3, flat.shape).astype('f4')
  found = gptq.round_kernels_gptq(network, RULES, variables, flat, **STILL)
  inner = lambda v: np.abs(_kernel(v).sum((0, 1, 2)) / _scale(kernel).ravel())
  # A step is what one weight can make up for.
  assert inner(found).max() < 0.51 < inner(_nearest(variables)).max()


def test_second_moments_by_hand():
  network = Single((('kernel', 3),))
  variables = _variables(network)
  images = _images(2)
  (sums,) = gptq.measure_second_moments(
    network, variables, images, **STILL
  ).values()
  padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
  expected = np.zeros((72, 72))
  for image in padded:
    for y in range(image.shape[0] - 2):
      for x in range(image.shape[1] - 2):
        read = image[y : y + 3, x : x + 3].transpose(2, 0, 1).ravel()
        expected += np.outer(read, read)
  np.testing.assert_allclose(sums[0], expected, rtol=1e-4)


def test_wide_kernels_are_rounded_in_blocks(monkeypatch):
  network = Single((('kernel', 3), ('groups', 2)))
  variables = _variables(network)
  monkeypatch.setattr(gptq, '_MAX_BLOCK_INPUTS', 18)  # 2 of 4 channels
  (sums,) = gptq.measure_second_moments(
    network, variables, _images(), **STILL
  ).values()
  assert sums.shape == (4, 18, 18)
  found = gptq.round_kernels_gptq(network, RULES, variables, _images(), **STILL)
  nearest = _error(network, variables, _nearest(variables), _images())
  assert _error(network, variables, found, _images()) < 0.8 * nearest


def test_float_layers_and_power_of_two_scales():
  network = Single()
  variables = _variables(network)
  as_float = rules.Rules(float_layers='conv')
  found = gptq.round_kernels_gptq(
    network, as_float, variables, _images(), **STILL
  )
  np.testing.assert_array_equal(_kernel(found), _kernel(variables))
  power = rules.Rules(power_of_two=True)
  kernel = _kernel(
    gptq.round_kernels_gptq(network, power, variables, _images(), **STILL)
  )
  scale = 2 ** np.ceil(np.log2(_scale(_kernel(variables))))
  np.testing.assert_array_equal(kernel / scale, np.rint(kernel / scale))
  assert (np.abs(kernel) <= 127 * scale).all()


class Deep(nn.Module):
  """Three convolutions with BatchNorms, and one with a bias."""

  @nn.compact
  def __call__(self, images):
    x = images
    for i in range(3):
      x = layers.ConvBN(
        8, norm=layers.BatchNormConfig(0.9, 1e-3), kernel=3, name=f'layer{i}'
      )(x, False)
    return layers.Conv(4, use_bias=True, name='last')(x)


def test_bias_correction_keeps_the_means():
  network, images = Deep(), _images()
  variables = jax.tree.map(
    np.asarray, jax.jit(network.init)(jax.random.key(0), images)
  )
  variables = batch_norm_folding.fold_batch_norms(network, variables, 8)
  found = gptq.round_kernels_gptq(network, RULES, variables, images, **STILL)
  mean = lambda v: np.asarray(network.apply(v, images)).mean((0, 1, 2))
  np.testing.assert_allclose(mean(found), mean(variables), atol=1e-4)
  # Without them the rounded kernels have other means.
  params = {
    name: {**found['params'][name], 'norm': layer['norm']}
    if 'norm' in layer
    else {**found['params'][name], 'bias': layer['bias']}
    for name, layer in variables['params'].items()
  }
  kernels_alone = {**found, 'params': params}
  assert np.abs(mean(kernels_alone) - mean(variables)).max() > 1e-3
