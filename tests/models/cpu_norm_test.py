import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import cpu_norm
from deeplab.models import layers

DECAY, EPSILON = 0.9, 1e-3


def random(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


class Reference(nn.Module):
  """Flax's own BatchNorm, and the activation."""

  activation: str
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(
      False, axis_name=self.axis_name, momentum=DECAY, epsilon=EPSILON
    )(x)
    return layers.ACTIVATIONS[self.activation](x)


def ours(activation, axis_name=None):
  return cpu_norm.BatchNorm(DECAY, EPSILON, activation, axis_name)


def variables(channels):
  values = {
    'params': {
      'scale': random(channels, seed=2) + 2,
      'bias': random(channels, seed=3),
    },
    'batch_stats': {
      'mean': random(channels, seed=4),
      'var': random(channels, seed=5) ** 2,
    },
  }
  return values


def nested(values):
  return {kind: {'BatchNorm_0': leaf} for kind, leaf in values.items()}


def run(module, values, x, weights):
  """Returns the map, the new statistics, and the gradients."""

  def loss(params, x):
    y, state = module.apply(
      {**values, 'params': params}, x, mutable=['batch_stats']
    )
    return (y.astype(jnp.float32) * weights).sum(), (y, state['batch_stats'])

  step = jax.value_and_grad(loss, (0, 1), has_aux=True)
  (_, (y, state)), gradients = step(values['params'], x)
  return y, state, gradients


# Compilation takes nearly all the time of these tests.
compiled = functools.partial(
  jax.jit,
  static_argnums=0,
  compiler_options={'xla_backend_optimization_level': 0},
)(run)


def assert_equal(actual, expected, tolerance):
  actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
  for a, b in zip(actual, expected, strict=True):
    b = np.asarray(b, np.float32)
    np.testing.assert_allclose(
      np.asarray(a, np.float32), b, rtol=0, atol=tolerance * np.abs(b).max()
    )


@pytest.mark.parametrize('activation', cpu_norm.ACTIVATIONS)
def test_batch_norm_equals_flax(activation):
  x, weights = 3 * random(3, 5, 4, 6) + 1, random(3, 5, 4, 6, seed=1)
  values = variables(6)
  actual = compiled(ours(activation), values, x, weights)
  expected = compiled(Reference(activation), nested(values), x, weights)
  assert_equal(actual, expected, 1e-5)


def test_activations_equal_the_layers_activations():
  assert set(cpu_norm.ACTIVATIONS) == set(layers.ACTIVATIONS)


def test_batch_norm_literal():
  x = jnp.array([0.0, 4, 8, 4]).reshape(2, 1, 2, 1)
  one = jnp.ones(1)
  y, mean, variance = cpu_norm.batch_norm(
    x, 2 * one, 3 * one, 1.0, 'relu6', None
  )
  # Mean 4, variance 8, and sqrt(8 + 1) = 3: 3 + 2 * (x - 4) / 3, up to 6.
  np.testing.assert_allclose(y.ravel(), [1 / 3, 3, 17 / 3, 3], rtol=1e-6)
  assert (mean.item(), variance.item()) == (4, 8)
  y, *_ = cpu_norm.batch_norm(x, 4 * one, 3 * one, 1.0, 'relu6', None)
  np.testing.assert_allclose(y.ravel(), [0, 3, 6, 3], rtol=1e-6)


def test_batch_norm_bfloat16():
  x, weights = random(2, 6, 6, 4), random(2, 6, 6, 4, seed=1)
  half = x.astype(jnp.bfloat16)
  y, state, (params, dx) = compiled(ours('relu6'), variables(4), half, weights)
  assert y.dtype == dx.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves((state, params))} == {
    jnp.dtype(jnp.float32)
  }
  rounded = half.astype(jnp.float32)
  expected = compiled(ours('relu6'), variables(4), rounded, weights)
  # The map and the cotangents are rounded to 2 ** -9.
  assert_equal((y, state, (params, dx)), expected, 0.01)


def test_batch_norm_over_devices():
  if jax.local_device_count() < 2:
    pytest.skip('needs two devices')
  x, weights = random(2, 2, 3, 3, 4), random(2, 2, 3, 3, 4, seed=1)
  values = variables(4)
  on_two = lambda module, values: jax.pmap(
    lambda x, weights: run(module, values, x, weights), axis_name='batch'
  )(x, weights)
  actual = on_two(ours('relu6', 'batch'), values)
  assert_equal(
    actual, on_two(Reference('relu6', 'batch'), nested(values)), 1e-5
  )
  # Equal to one device with all examples; gradients of parameters are summed.
  y, state, (params, dx) = actual
  merge = lambda x: x.reshape(-1, *x.shape[2:])
  alone = compiled(ours('relu6'), values, merge(x), merge(weights))
  state = jax.tree.map(lambda x: x[1], state)
  params = jax.tree.map(lambda x: x.sum(0), params)
  assert_equal((merge(y), state, (params, merge(dx))), alone, 1e-5)


def test_initialisation_equals_flax():
  x = random(1, 2, 2, 3)
  init = lambda module: jax.jit(module.init)(jax.random.key(0), x)
  actual, expected = init(ours('none')), init(Reference('none'))
  expected = {kind: tree['BatchNorm_0'] for kind, tree in expected.items()}
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_strict_promotion():
  x = random(1, 2, 2, 3).astype(jnp.bfloat16)
  with (
    jax.numpy_dtype_promotion('strict'),
    jax.numpy_rank_promotion('raise'),
  ):
    jax.eval_shape(
      lambda x: run(ours('relu'), variables(3), x, jnp.ones((1, 2, 2, 3))), x
    )
