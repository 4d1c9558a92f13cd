import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.pretrained import merge
from deeplab.pretrained import unfold_batch_norm

EPSILON = 0.01


class Net(nn.Module):
  """Two folded layers, a fresh one, and a classifier."""

  @nn.compact
  def __call__(self, images, train=False):
    norm = layers.BatchNormConfig(0.9, EPSILON)
    x = layers.ConvBN(8, norm, kernel=3, stride=2, name='stem')(images, train)
    x = layers.SeparableConvBN(8, norm, name='middle')(x, train)
    x = layers.ConvBN(4, norm, name='fresh')(x, train)
    return layers.Conv(3, use_bias=True, name='classifier')(x)


def images(count, seed):
  """Smooth images of one distribution, not centered, [count, 33, 33, 3]."""
  noise = np.random.default_rng(seed).normal(size=(count, 35, 35, 3))
  smooth = sum(noise[:, i : i + 33, j : j + 33] for i in (0, 1) for j in (0, 1))
  return np.float32(0.5 + 0.7 * smooth)


# The net's first layer, without its ReLU.
STEM = layers.ConvBN(
  8, layers.BatchNormConfig(0.9, EPSILON), kernel=3, stride=2, activation='none'
)


@pytest.fixture(scope='module')
def merged():
  """Variables after `merge`: kernels and biases of a folded file."""
  rng = np.random.default_rng(1)
  variables = Net().init(jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
  variables = jax.tree.map(np.array, variables)
  for name in ('kernel', 'bias'):
    for layer in ('stem', 'middle/depthwise', 'middle/pointwise'):
      part = variables['params']
      for key in layer.split('/'):
        part = part[key]
      part = part['conv'] if name == 'kernel' else part['norm']['bn']
      scale = 0.3 if name == 'kernel' else 2.0
      part[name][:] = rng.normal(scale=scale, size=part[name].shape)
  return variables


PATHS = [
  f'{layer}/{name}'
  for layer in ('stem', 'middle/depthwise', 'middle/pointwise')
  for name in ('conv/kernel', 'norm/bn/bias')
]


@pytest.fixture(scope='module')
def naive(merged):
  return unfold_batch_norm.set_identity_batch_norms(
    Net(), merged, images(1, 0), PATHS
  )


@pytest.fixture(scope='module')
def restored(naive):
  batches = [images(16, 2), images(8, 3)]
  return unfold_batch_norm.restore_batch_norms(Net(), naive, batches, PATHS)


@jax.jit
def evaluate(variables, x):
  return Net().apply(variables, x)


@jax.jit
def train(variables, x):
  y, _ = Net().apply(variables, x, train=True, mutable=['batch_stats'])
  return y


def stem(variables, x):
  """The first layer of the file: W x + b, no BatchNorm."""
  params = variables['params']['stem']
  y = jax.lax.conv_general_dilated(
    x,
    params['conv']['kernel'],
    (2, 2),
    ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return np.array(y), params['norm']['bn']['bias']


def deviation(got, wanted):
  """Root mean square difference, of the deviation from the mean."""
  wanted = np.asarray(wanted)
  return np.sqrt(np.mean((got - wanted) ** 2) / wanted.var())


def test_identity_norms_only_add_the_bias(merged, naive):
  x = images(2, 4)
  conv, bias = stem(merged, x)
  own = {kind: value['stem'] for kind, value in naive.items()}
  y = STEM.apply(own, x, False)
  np.testing.assert_allclose(y, conv + bias, rtol=0, atol=1e-5)


def test_evaluation_is_unchanged(naive, restored):
  x = images(4, 5)
  wanted = np.asarray(evaluate(naive, x))
  np.testing.assert_allclose(evaluate(restored, x), wanted, rtol=0, atol=1e-4)
  assert wanted.std() > 0.1


def test_statistics_cover_all_images(merged, restored):
  x = np.concatenate([images(16, 2), images(8, 3)])
  conv, bias = stem(merged, x)
  leaves = merge.flatten_variables(restored)
  np.testing.assert_allclose(
    leaves['stem/norm/bn/mean'], conv.mean((0, 1, 2)), rtol=0, atol=1e-5
  )
  np.testing.assert_allclose(
    leaves['stem/norm/bn/var'], conv.var((0, 1, 2)), rtol=1e-4
  )
  np.testing.assert_allclose(
    leaves['stem/norm/bn/scale'] ** 2,
    conv.var((0, 1, 2)) + EPSILON,
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    leaves['stem/norm/bn/bias'], bias + conv.mean((0, 1, 2)), rtol=0, atol=1e-5
  )


def test_training_starts_from_nearly_the_same_function(naive, restored):
  # A newly initialized layer changes the function in training: there is none.
  every = [*PATHS, 'fresh/norm/bn/bias']
  naive = unfold_batch_norm.set_identity_batch_norms(
    Net(), naive, images(1, 0), every
  )
  restored = unfold_batch_norm.restore_batch_norms(
    Net(), naive, [images(24, 2)], every
  )
  x = images(24, 6)
  wanted = evaluate(naive, x)
  assert deviation(train(restored, x), wanted) < 0.05
  assert deviation(train(naive, x), wanted) > 0.5


def test_layers_not_in_the_file_are_unchanged(merged, restored):
  before, after = (
    merge.flatten_variables(merged),
    merge.flatten_variables(restored),
  )
  for name in ('scale', 'bias', 'mean', 'var'):
    path = f'fresh/norm/bn/{name}'
    np.testing.assert_array_equal(before[path], after[path])


def test_dead_channels_are_not_amplified(merged):
  dead = jax.tree.map(np.array, merged)
  kernel = dead['params']['stem']['conv']['kernel']
  alive = kernel[..., 0].copy()
  kernel[..., 0] = 0
  dead = unfold_batch_norm.set_identity_batch_norms(
    Net(), dead, images(1, 0), PATHS
  )
  dead = unfold_batch_norm.restore_batch_norms(
    Net(), dead, [images(16, 2)], PATHS
  )
  leaves = merge.flatten_variables(dead)
  assert leaves['stem/norm/bn/var'][0] == 0
  np.testing.assert_allclose(leaves['stem/norm/bn/scale'][0], 0.1, rtol=1e-6)
  x = images(16, 6)
  gradient = jax.jit(jax.grad(lambda v: train({**dead, 'params': v}, x).var()))(
    dead['params']
  )
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
  # When training activates it, no map is larger than the file's.
  dead['params']['stem']['conv']['kernel'][..., 0] = alive
  own = {kind: value['stem'] for kind, value in dead.items()}
  y, _ = STEM.apply(own, x, True, mutable=['batch_stats'])
  conv, _ = stem(dead, x)
  assert 0 < y[..., 0].std() < conv[..., 0].std()


def test_missing_or_invalid_images_fail(naive):
  with pytest.raises(ValueError, match='there are no images to measure'):
    unfold_batch_norm.restore_batch_norms(Net(), naive, [], PATHS)
  x = images(2, 0)
  x[0, 5, 5] = np.inf
  with pytest.raises(ValueError, match='enter stem/norm/bn are not finite'):
    unfold_batch_norm.restore_batch_norms(Net(), naive, [x], PATHS)
