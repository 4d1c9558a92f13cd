import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import layers

NORM = layers.BatchNormConfig(decay=0.9, epsilon=1e-3)


def random(*shape, seed=0):
  generator = np.random.default_rng(seed)
  return generator.standard_normal(shape).astype(np.float32)


def convolve(x, kernel, stride, rate, pads, groups):
  """The definition, one output value at a time, in float64."""
  x = np.pad(x.astype(np.float64), ((0, 0), *pads, (0, 0)))
  *shape, group_in, features = kernel.shape
  high, wide = ((k - 1) * rate + 1 for k in shape)
  rows = range(0, x.shape[1] - high + 1, stride)
  columns = range(0, x.shape[2] - wide + 1, stride)
  out = np.zeros((x.shape[0], len(rows), len(columns), features))
  for i, top in enumerate(rows):
    for j, left in enumerate(columns):
      window = x[:, top : top + high : rate, left : left + wide : rate]
      for f in range(features):
        first = f // (features // groups) * group_in
        inputs = window[..., first : first + group_in]
        out[:, i, j, f] = (inputs * kernel[..., f]).sum(axis=(1, 2, 3))
  return out


@pytest.mark.parametrize(
  ('padding', 'size', 'kernel', 'stride', 'rate', 'expected'),
  [
    ('same', (8, 9), 3, 1, 1, ((1, 1), (1, 1))),
    ('same', (8, 9), 3, 2, 1, ((0, 1), (1, 1))),
    ('same', (8, 9), 3, 1, 4, ((4, 4), (4, 4))),
    ('same', (8, 9), 5, 2, 1, ((1, 2), (2, 2))),
    ('same', (8, 9), 1, 2, 1, ((0, 0), (0, 0))),
    ('symmetric', (8, 9), 3, 2, 1, ((1, 1), (1, 1))),
    ('symmetric', (8, 9), 3, 1, 4, ((4, 4), (4, 4))),
    ('symmetric', (8, 9), 1, 2, 1, ((0, 0), (0, 0))),
    ('keras', (8, 9), 3, 1, 2, ((2, 2), (2, 2))),
    ('keras', (8, 9), 3, 2, 1, ((0, 1), (1, 1))),
    ('keras', (8, 9), 5, 2, 1, ((1, 2), (2, 2))),
    ('same', (8, 8), (3, 1), 2, 1, ((0, 1), (0, 0))),
    ('symmetric', (8, 9), (1, 5), 1, 3, ((0, 0), (6, 6))),
    ('keras', (8, 8), (3, 1), 1, 2, ((2, 2), (0, 0))),
    (((0, 0), (2, 1)), (8, 9), 3, 1, 1, ((0, 0), (2, 1))),
  ],
)
def test_explicit_padding(padding, size, kernel, stride, rate, expected):
  assert (
    layers.explicit_padding(padding, size, kernel, stride, rate) == expected
  )


def test_unknown_padding():
  with pytest.raises(ValueError, match="padding='valid'"):
    layers.explicit_padding('valid', (8, 8), 3, 1, 1)


@pytest.mark.parametrize('options', ['conv', 'fast'])
@pytest.mark.parametrize(
  ('features', 'fields', 'pads'),
  [
    (5, {'kernel': 3}, ((1, 1), (1, 1))),
    (5, {'kernel': 3, 'stride': 2, 'padding': 'same'}, ((0, 1), (1, 1))),
    (5, {'kernel': 3, 'stride': 2, 'padding': 'symmetric'}, ((1, 1), (1, 1))),
    (8, {'kernel': 3, 'rate': 2, 'groups': 2}, ((2, 2), (2, 2))),
    (4, {'kernel': 3, 'rate': 3, 'groups': 4}, ((3, 3), (3, 3))),
    (4, {'kernel': 3, 'stride': 2, 'groups': 4}, ((0, 1), (1, 1))),
    (5, {'kernel': (3, 1), 'rate': 2}, ((2, 2), (0, 0))),
    (4, {'kernel': (1, 3), 'groups': 4}, ((0, 0), (1, 1))),
    (5, {'kernel': 3, 'padding': layers.NO_PADDING}, ((0, 0), (0, 0))),
    (6, {}, ((0, 0), (0, 0))),
    (6, {'stride': 2}, ((0, 0), (0, 0))),
  ],
)
def test_conv_equals_the_definition(features, fields, pads, options):
  if options == 'conv':
    options = layers.Options()
  else:
    options = layers.Options(depthwise='shifted', pointwise='matmul')
  conv = layers.Conv(features, use_bias=True, options=options, **fields)
  x = random(2, 6, 7, 4)
  size, groups = fields.get('kernel', 1), fields.get('groups', 1)
  size = size if isinstance(size, tuple) else (size, size)
  kernel = random(*size, 4 // groups, features, seed=1)
  bias = random(features, seed=2)
  y = conv.apply({'params': {'kernel': kernel, 'bias': bias}}, x)
  expected = convolve(
    x, kernel, fields.get('stride', 1), fields.get('rate', 1), pads, groups
  )
  np.testing.assert_allclose(y, expected + bias, rtol=0, atol=2e-5)


def test_conv_literal():
  x = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
  kernel = np.ones((3, 3, 1, 1), np.float32)
  apply = lambda **fields: np.asarray(
    layers.Conv(1, kernel=3, **fields).apply({'params': {'kernel': kernel}}, x)
  )[0, ..., 0].tolist()
  assert apply() == [[12, 21, 16], [27, 45, 33], [24, 39, 28]]
  assert apply(stride=2) == [[12, 16], [24, 28]]
  # Taps two apart on a 3 x 3 map: only those of the same parity are inside.
  assert apply(rate=2) == [[20, 10, 20], [10, 5, 10], [20, 10, 20]]


def test_conv_with_uneven_groups_fails():
  with pytest.raises(ValueError, match='groups=3'):
    layers.Conv(6, groups=3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)))


@pytest.mark.parametrize(
  ('kernel', 'stride', 'padding', 'start'),
  [
    (3, 2, 'same', 0),
    (3, 2, 'symmetric', 1),
    (2, 2, 'same', 0),
    (2, 2, 'symmetric', 0),
    (4, 2, 'same', 1),
    (3, 1, 'same', 1),
    (5, 3, 'symmetric', 2),
  ],
)
def test_conv_transpose_equals_the_definition(kernel, stride, padding, start):
  layer = layers.ConvTranspose(5, kernel, stride, True, padding)
  x = random(2, 4, 3, 2)
  weights, bias = random(kernel, kernel, 2, 5, seed=1), random(5, seed=2)
  y = layer.apply({'params': {'kernel': weights, 'bias': bias}}, x)
  height, width = 4 * stride, 3 * stride
  spread = np.zeros((2, height + kernel, width + kernel, 5))
  for i, j in np.ndindex(4, 3):
    rows = slice(stride * i, stride * i + kernel)
    columns = slice(stride * j, stride * j + kernel)
    spread[:, rows, columns] += np.einsum(
      'bc,hwcf->bhwf', x[:, i, j].astype(np.float64), weights
    )
  expected = spread[:, start : start + height, start : start + width] + bias
  assert y.shape == (2, height, width, 5)
  np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'kernel': 3, 'padding': 'keras'}, "padding='keras'"),
    ({'kernel': 1}, 'kernel=1 is too small for stride=2'),
    ({'kernel': 5, 'stride': 4, 'padding': 'symmetric'}, 'kernel=5'),
  ],
)
def test_conv_transpose_with_invalid_fields_fails(fields, message):
  layer = layers.ConvTranspose(2, **fields)
  with pytest.raises(ValueError, match=message):
    layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)))


def test_options_are_checked():
  with pytest.raises(ValueError, match="dtype='float16'"):
    layers.Options(dtype='float16')
  with pytest.raises(ValueError, match="depthwise='fast'"):
    layers.Options(depthwise='fast')


@pytest.mark.parametrize(
  ('activation', 'expected'),
  [
    ('relu', (0, 0, 0, 1.5, 9)),
    ('relu6', (0, 0, 0, 1.5, 6)),
    ('hard_swish', (0, -0.375, 0, 1.125, 9)),
    ('hard_sigmoid', (0, 0.25, 0.5, 0.75, 1)),
    ('none', (-9, -1.5, 0, 1.5, 9)),
  ],
)
def test_activations(activation, expected):
  x = jnp.array([-9, -1.5, 0, 1.5, 9])
  y = layers.ACTIVATIONS[activation](x)
  np.testing.assert_allclose(y, expected, rtol=1e-6)


def conv_bn(kernel, train, x, dtype='float32', activation='relu'):
  layer = layers.ConvBN(
    1, NORM, activation=activation, options=layers.Options(dtype=dtype)
  )
  one = np.ones(1, np.float32)
  variables = {
    'params': {
      'conv': {'kernel': np.float32(kernel).reshape(1, 1, 1, 1)},
      'norm': {'bn': {'scale': 3 * one, 'bias': -2 * one}},
    },
    'batch_stats': {'norm': {'bn': {'mean': 4 * one, 'var': 3.999 * one}}},
  }
  return layer.apply(variables, x, train, mutable=['batch_stats'])


def test_conv_bn_running_statistics():
  x = np.array([0, 4, 8], np.float32).reshape(1, 1, 3, 1)
  # 2 x = 0, 8, 16; minus 4, over sqrt(3.999 + .001) = 2, times 3, minus 2.
  y, state = conv_bn(2, False, x, activation='none')
  np.testing.assert_allclose(y.ravel(), [-8, 4, 16], rtol=1e-6)
  assert state['batch_stats']['norm']['bn']['mean'].item() == 4.0
  y, _ = conv_bn(2, False, x)
  np.testing.assert_allclose(y.ravel(), [0, 4, 16], rtol=1e-6)
  y, _ = conv_bn(2, False, x, activation='relu6')
  np.testing.assert_allclose(y.ravel(), [0, 4, 6], rtol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_conv_bn_batch_statistics(dtype):
  x = np.array([0, 4, 8, 4], np.float32).reshape(2, 1, 2, 1)
  # 2 x = 0, 8, 16, 8: mean 8, variance 32.
  y, state = conv_bn(2, True, x, dtype, activation='none')
  high = -2 + 3 * 8 / np.sqrt(32.001)
  expected = [-4 - high, -2, high, -2]
  tolerance = 1e-5 if dtype == 'float32' else 1e-2
  np.testing.assert_allclose(
    np.asarray(y, np.float32).ravel(), expected, rtol=tolerance
  )
  assert y.dtype == jnp.dtype(dtype)
  statistics = state['batch_stats']['norm']['bn']
  assert statistics['mean'].dtype == statistics['var'].dtype == np.float32
  # 0.9 of the old and 0.1 of the new.
  np.testing.assert_allclose(statistics['mean'], [4.4], rtol=1e-6)
  np.testing.assert_allclose(statistics['var'], [6.7991], rtol=1e-6)


@pytest.mark.parametrize('pointwise', ['conv', 'matmul'])
@pytest.mark.parametrize('devices', [1, 2])
def test_the_running_variance_may_be_unbiased(pointwise, devices):
  options = layers.Options(
    pointwise=pointwise,
    axis_name='device',
    unbiased_variance=True,
  )
  layer = layers.BatchNorm(layers.BatchNormConfig(0.9, 1e-3), options=options)
  x = np.array([0, 8, 16, 8], np.float32).reshape(devices, -1, 1, 1, 1)
  variables = {
    'params': {'bn': {'scale': np.ones(1), 'bias': np.zeros(1)}},
    'batch_stats': {'bn': {'mean': np.ones(1), 'var': np.full(1, 3.0)}},
  }
  variables = jax.tree.map(np.float32, variables)

  y, state = jax.vmap(
    lambda x: layer.apply(variables, x, True, mutable=['batch_stats']),
    axis_name='device',
  )(x)
  # Mean 8; the squares sum up to 128: 32 over four pixels, 42.667 over three.
  np.testing.assert_allclose(
    np.ravel(y), (np.ravel(x) - 8) / np.sqrt(32.001), rtol=1e-5, atol=1e-6
  )
  stats = state['batch_stats']['bn']
  np.testing.assert_allclose(np.ravel(stats['mean']), [1.7] * devices, 1e-6)
  expected = 0.9 * 3 + 0.1 * 128 / 3
  np.testing.assert_allclose(np.ravel(stats['var']), [expected] * devices, 1e-6)


def test_the_running_variance_of_one_value_stays_finite():
  layer = layers.BatchNorm(
    layers.BatchNormConfig(0.9, 1e-3),
    options=layers.Options(unbiased_variance=True),
  )
  x = np.ones((1, 1, 1, 1), np.float32)
  variables = layer.init(jax.random.key(0), x, False)
  _, state = layer.apply(variables, x, True, mutable=['batch_stats'])
  np.testing.assert_allclose(state['batch_stats']['bn']['var'], [0.9], 1e-6)


@pytest.mark.parametrize('pointwise', ['conv', 'matmul'])
def test_frozen_norm(pointwise):
  options = layers.Options(pointwise=pointwise)
  norm = layers.BatchNormConfig(0.9, 0.0, frozen=True)
  layer = layers.BatchNorm(norm, 'relu', options)
  x = np.array([1, 4, 7], np.float32).reshape(1, 1, 3, 1)
  variables = layer.init(jax.random.key(0), x, True)
  shapes = jax.tree.map(np.shape, variables['params'])
  assert shapes == {'bn': {'bias': (1,), 'scale': (1,)}}
  value = lambda n: np.full(1, n, np.float32)
  params = {'bn': {'scale': value(3), 'bias': value(1)}}
  statistics = {'bn': {'mean': value(4), 'var': value(4)}}

  def run(params, x):
    variables = {'params': params, 'batch_stats': statistics}
    return layer.apply(variables, x, True, mutable=['batch_stats'])

  y, backward, state = jax.vjp(run, params, x, has_aux=True)
  # Three times a deviation of -1.5, 0, 1.5, and 1.
  assert y.ravel().tolist() == [0, 1, 5.5]
  dparams, dx = backward(np.ones_like(y))
  assert dx.ravel().tolist() == [0, 1.5, 1.5]
  assert dparams == {'bn': {'scale': value(0), 'bias': value(0)}}
  assert state['batch_stats'] == statistics


@pytest.mark.parametrize('depthwise_norm', [True, False])
def test_separable_conv_bn_equals_its_two_layers(
  random_variables, depthwise_norm
):
  x = random(1, 5, 5, 2)
  layer = layers.SeparableConvBN(
    3,
    NORM,
    rate=2,
    padding='symmetric',
    depthwise_activation='none',
    depthwise_norm=depthwise_norm,
  )
  variables = random_variables(layer, x, False)

  def norm(x, name):
    bn = variables['params'][name]['norm']['bn']
    running = variables['batch_stats'][name]['norm']['bn']
    x = (x - running['mean']) / np.sqrt(running['var'] + 1e-3)
    return x * bn['scale'] + bn['bias']

  params, pads = variables['params'], ((2, 2), (2, 2))
  if depthwise_norm:
    kernel = params['depthwise']['conv']['kernel']
    wide = norm(convolve(x, kernel, 1, 2, pads, 2), 'depthwise')
  else:
    wide = convolve(x, params['depthwise']['kernel'], 1, 2, pads, 2)
  wide = wide @ params['pointwise']['conv']['kernel'][0, 0]
  expected = np.maximum(norm(wide, 'pointwise'), 0)
  y = layer.apply(variables, x, False)
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_separable_conv_bn_with_groups_and_biases(random_variables):
  x = random(1, 5, 5, 6)
  layer = layers.SeparableConvBN(
    4,
    NORM,
    group_size=3,
    depthwise_norm=False,
    depthwise_bias=True,
    pointwise_bias=True,
    activation='none',
  )
  variables = random_variables(layer, x, False)
  first = variables['params']['depthwise']
  second = variables['params']['pointwise']
  bn = second['norm']['bn']
  running = variables['batch_stats']['pointwise']['norm']['bn']
  assert first['kernel'].shape == (3, 3, 3, 6)
  y = convolve(x, first['kernel'], 1, 1, ((1, 1), (1, 1)), 2) + first['bias']
  y = y @ second['conv']['kernel'][0, 0] + second['conv']['bias']
  y = (y - running['mean']) / np.sqrt(running['var'] + 1e-3)
  np.testing.assert_allclose(
    layer.apply(variables, x, False),
    y * bn['scale'] + bn['bias'],
    rtol=0,
    atol=1e-5,
  )


def test_separable_conv_bn_with_uneven_groups_fails():
  layer = layers.SeparableConvBN(4, NORM, group_size=4)
  with pytest.raises(ValueError, match='group_size=4 does not divide the 6'):
    jax.eval_shape(
      lambda: layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 6)), False)
    )


def test_dropout_mask_does_not_depend_on_sharding():
  x = np.ones((4, 5, 6), np.float32)
  keys = jax.random.split(jax.random.key(3), 4)
  drop = jax.jit(lambda x, keys: layers.dropout(x, 0.5, keys))
  whole = np.asarray(drop(x, keys))
  halves = [drop(x[:2], keys[:2]), drop(x[2:], keys[2:])]
  np.testing.assert_array_equal(whole, np.concatenate(halves))
  np.testing.assert_array_equal(drop(x, keys[::-1]), whole[::-1])
  assert not np.array_equal(whole[0], whole[1])


def test_dropout_keeps_the_mean():
  x = np.full((2, 100, 100), 3.0, np.float32)
  keys = jax.random.split(jax.random.key(0), 2)
  drop = jax.jit(lambda x, keys: layers.dropout(x, 0.25, keys))
  y = np.asarray(drop(x, keys))
  assert set(np.unique(y).tolist()) == {0.0, 4.0}
  # 20,000 draws: three standard deviations are 0.0092.
  assert abs((y == 0).mean() - 0.25) < 0.0092
  half = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
  assert jax.eval_shape(drop, half, keys).dtype == jnp.bfloat16


def test_dropout_of_whole_channels():
  x = np.ones((2, 5, 6, 400), np.float32)
  keys = jax.random.split(jax.random.key(0), 2)
  y = np.asarray(layers.dropout(x, 0.25, keys, drop_channels=True))
  np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], y.shape))
  # 400 draws per image: three standard deviations are 0.065.
  assert np.abs((y[:, 0, 0] == 0).mean(-1) - 0.25).max() < 0.065
  assert np.any(y[0] != y[1])


def test_dropout_without_keys_or_rate():
  x = jnp.ones((2, 3))
  assert layers.dropout(x, 0.5, None) is x
  keys = jax.random.split(jax.random.key(0), 2)
  assert layers.dropout(x, 0.0, keys) is x
