"""ASPP against a NumPy computation, and its fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models.heads import aspp

NORM = layers.BatchNormConfig(decay=0.9, epsilon=1e-3)


def make(**fields):
  return aspp.ASPP(**({'norm': NORM, 'channels': 4, 'rates': (2, 3)} | fields))


def noise(shape):
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def shapes(module, x):
  """Variables of the module as shapes and dtypes; nothing is computed."""
  return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), x)


def convolve(x, kernel, rate):
  """Correlation with zero padding, tap by tap; x [B, H, W, C]."""
  size = kernel.shape[0]
  height, width = x.shape[1:3]
  margin = size // 2 * rate
  x = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
  taps = [
    x[:, i * rate : i * rate + height, j * rate : j * rate + width]
    @ kernel[i, j]
    for i in range(size)
    for j in range(size)
  ]
  return np.sum(taps, axis=0)


def conv_bn_relu(x, variables, *path, rate=1):
  params, stats = variables['params'], variables['batch_stats']
  for name in path:
    params, stats = params[name], stats[name]
  kernel = params['conv']['kernel']
  if kernel.shape[2] == 1 and x.shape[-1] > 1:  # depthwise, as a dense kernel
    kernel = kernel * np.eye(x.shape[-1], dtype=np.float32)
  x = convolve(x, kernel, rate)
  scale, stats = params['norm']['bn'], stats['norm']['bn']
  x = (x - stats['mean']) / np.sqrt(stats['var'] + NORM.epsilon)
  return np.maximum(x * scale['scale'] + scale['bias'], 0)


@pytest.mark.parametrize('separable', [False, True])
@pytest.mark.parametrize('projection', [1, 3])
def test_equals_numpy(separable, projection, random_variables):
  x = noise((2, 7, 6, 3))
  module = make(separable=separable, projection_kernel=projection)
  variables = random_variables(module, x, False)
  pooled = conv_bn_relu(x.mean((1, 2), keepdims=True), variables, 'pool')
  branches = [
    np.broadcast_to(pooled, (2, 7, 6, 4)),
    conv_bn_relu(x, variables, 'conv'),
  ]
  for i, rate in enumerate((2, 3)):
    if separable:
      y = conv_bn_relu(x, variables, f'atrous{i}', 'depthwise', rate=rate)
      branches.append(conv_bn_relu(y, variables, f'atrous{i}', 'pointwise'))
    else:
      branches.append(conv_bn_relu(x, variables, f'atrous{i}', rate=rate))
  expected = conv_bn_relu(
    np.concatenate(branches, axis=-1), variables, 'projection'
  )
  actual = jax.jit(lambda x: module.apply(variables, x, False))(x)
  assert 0.1 < (expected > 0).mean() < 0.9
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)


def test_without_rates_and_pooling_is_two_1x1_convolutions():
  x = jnp.ones((1, 5, 5, 3))
  variables = shapes(make(rates=(), image_pooling=False), x)
  assert set(variables['params']) == {'conv', 'projection'}


@pytest.mark.parametrize(
  ('fields', 'count'),
  [
    # Branches 8 -> 4: pool 32, 1x1 32, two dense 3x3 288 each; projection
    # 16 -> 4: 64; BatchNorm scale and bias: 5 x 8.
    ({}, 32 + 32 + 2 * 288 + 64 + 40),
    # Separable branches: 3x3x8 + 8x4 and 16 + 8 of BatchNorm each.
    ({'separable': True}, 32 + 32 + 2 * (72 + 32 + 16) + 64 + 40),
    ({'separable': True, 'depthwise_norm': False}, 64 + 2 * 104 + 64 + 40),
    ({'image_pooling': False}, 32 + 2 * 288 + 48 + 32),
    ({'rates': ()}, 64 + 32 + 24),
    ({'projection_kernel': 3}, 64 + 2 * 288 + 9 * 64 + 40),
    ({'refine': 'dense'}, 64 + 2 * 288 + 64 + 40 + 144 + 8),
    ({'refine': 'separable'}, 64 + 2 * 288 + 64 + 40 + 36 + 16 + 16),
    # A bias per channel: five layers of 4, and of 8 for each depthwise one.
    ({'use_bias': True}, 32 + 32 + 2 * 288 + 64 + 40 + 20),
    ({'use_bias': True, 'separable': True}, 64 + 2 * 120 + 64 + 40 + 36),
    ({'use_bias': True, 'refine': 'dense'}, 64 + 576 + 64 + 40 + 152 + 24),
  ],
)
def test_parameter_counts(fields, count):
  variables = shapes(make(**fields), jnp.ones((1, 5, 5, 8)))
  sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
  assert sum(sizes) == count


def test_mean_in_training_equals_pooling_in_evaluation(random_variables):
  # Decay 0 makes the running statistics those of the last batch, so that both
  # modes normalize alike; the variance of flax's BatchNorm is biased in both.
  x = noise((3, 9, 7, 5))
  module = make(norm=layers.BatchNormConfig(0.0, 1e-3), dropout=0.0)
  variables = random_variables(module, x, False)
  trained, updates = jax.jit(
    lambda x: module.apply(variables, x, True, mutable=['batch_stats'])
  )(x)
  evaluated = jax.jit(module.apply, static_argnums=2)(
    variables | updates, x, False
  )
  np.testing.assert_allclose(trained, evaluated, atol=1e-5)


def test_batch_of_one_fails_in_training_with_a_remedy(random_variables):
  x = jnp.ones((1, 5, 5, 3))
  module = make()
  variables = random_variables(module, x, False)
  with pytest.raises(ValueError, match='raise batch_size to 2 or more'):
    module.apply(variables, x, True, mutable=['batch_stats'])
  module = make(image_pooling=False)
  variables = random_variables(module, x, False)
  jax.eval_shape(
    lambda x: module.apply(variables, x, True, mutable=['batch_stats']), x
  )


def test_batch_of_one_works_over_several_replicas(random_variables):
  module = make(options=layers.Options(axis_name='batch'))
  x = noise((2, 1, 5, 5, 3))
  variables = random_variables(module, x[0], False)

  def step(x):
    return module.apply(variables, x, True, mutable=['batch_stats'])[0]

  out = jax.pmap(step, axis_name='batch')(x)
  assert out.shape == (2, 1, 5, 5, 4)
  assert np.isfinite(out).all()
  with pytest.raises(ValueError, match='batch_size'):
    jax.pmap(step, axis_name='batch')(x[:1])


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'rates': (6, 0)}, r'rates=\(6, 0\)'),
    ({'refine': 'twice'}, "refine='twice'"),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    shapes(make(**fields), jnp.ones((1, 5, 5, 3)))


def test_dropout_has_one_mask_per_example(random_variables):
  x = noise((3, 6, 6, 3))
  module = make(dropout=0.5, image_pooling=False, rates=())
  variables = random_variables(module, x, False)
  keys = jax.random.split(jax.random.key(2), 3)

  @jax.jit
  def run(keys):
    return module.apply(variables, x, True, keys, mutable=['batch_stats'])[0]

  dropped, kept = run(keys), run(None)
  live = np.asarray(kept) > 0
  share = (np.asarray(dropped)[live] == 0).mean()
  assert 0.4 < share < 0.6
  # An example's mask depends on its key, not on its position in the batch.
  zero = np.asarray(dropped) == 0
  swapped = run(keys[jnp.array([1, 0, 2])])
  both = live[0] & live[1]
  assert (np.asarray(swapped)[1][both] == 0).tolist() == zero[0][both].tolist()
  np.testing.assert_array_equal(swapped[2], dropped[2])


def test_no_dropout_in_evaluation(random_variables):
  x = noise((2, 6, 6, 3))
  module = make(dropout=0.5, image_pooling=False, rates=())
  variables = random_variables(module, x, False)
  keys = jax.random.split(jax.random.key(2), 2)
  run = jax.jit(lambda keys: module.apply(variables, x, False, keys))
  assert 'random_bits' not in run.lower(keys).as_text()
  assert 'threefry' not in run.lower(keys).as_text()
