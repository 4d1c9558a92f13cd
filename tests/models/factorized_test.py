"""ERFNet's block against its definition."""

import jax
import numpy as np
import pytest

from deeplab.models import factorized
from deeplab.models import layers


def line(x, weights, rate, axis):
  """Convolves one axis of [H, W] with three taps, zeros outside."""
  padded = np.pad(x, [(rate, rate) if a == axis else (0, 0) for a in (0, 1)])
  n = x.shape[axis]
  return sum(
    w * padded.take(range(i * rate, i * rate + n), axis)
    for i, w in enumerate(weights)
  )


@pytest.mark.parametrize('rate', [1, 2])
def test_equals_the_definition(rate):
  block = factorized.NonBottleneck1D(
    rate, layers.BatchNormConfig(0.9, 0.0), 'symmetric', layers.Options()
  )
  x = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
  taps = {
    'conv_1_rows': ([0.5, -1, 2], 0.25),
    'conv_1_columns': ([1, 0.5, -0.5], -0.5),
    'conv_2_rows': ([-1, 1, 0.5], 0.5),
    'conv_2_columns': ([2, -1, 1], 1.0),
  }
  params = {}
  for name, (weights, bias) in taps.items():
    shape = (3, 1, 1, 1) if 'rows' in name else (1, 3, 1, 1)
    conv = {
      'kernel': np.float32(weights).reshape(shape),
      'bias': np.float32([bias]),
    }
    params[name] = conv
    if 'columns' in name:
      norm = {'bn': {'scale': np.float32([3]), 'bias': np.float32([-1])}}
      params[name] = {'conv': conv, 'norm': norm}
  statistics = {'bn': {'mean': np.float32([0.5]), 'var': np.float32([4])}}
  batch_stats = {
    name: {'norm': statistics} for name in params if 'columns' in name
  }
  relu = lambda y: np.maximum(y, 0)
  y = x.astype(np.float64)
  for i in (1, 2):
    r = 1 if i == 1 else rate
    for axis, name in enumerate((f'conv_{i}_rows', f'conv_{i}_columns')):
      weights, bias = taps[name]
      y = line(y, weights, r, axis) + bias
      if axis == 0:
        y = relu(y)
    y = (y - 0.5) / 2 * 3 - 1
    if i == 1:
      y = relu(y)
  actual = block.apply(
    {'params': params, 'batch_stats': batch_stats}, x[None, :, :, None], False
  )
  np.testing.assert_allclose(actual[0, ..., 0], relu(x + y), atol=1e-4)


def test_kernels():
  block = factorized.NonBottleneck1D(
    4, layers.BatchNormConfig(0.9, 1e-3), 'symmetric', layers.Options()
  )
  shapes = jax.eval_shape(
    lambda x: block.init(jax.random.key(0), x, False), np.zeros((1, 8, 8, 6))
  )
  params = shapes['params']
  assert params['conv_1_rows']['kernel'].shape == (3, 1, 6, 6)
  assert params['conv_2_columns']['conv']['kernel'].shape == (1, 3, 6, 6)
