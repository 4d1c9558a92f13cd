"""Means over cells and windows against NumPy, in both implementations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models import pooling


def noise(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('count', [1, 2, 3, 4, (2, 3), (4, 1)])
@pytest.mark.parametrize('size', [(16, 8), (17, 9), (14, 15), (3, 2), (1, 1)])
def test_bins_equal_pytorch(size, count, train):
  x = noise(2, *size, 3)
  counts = count if isinstance(count, tuple) else (count, count)
  expected = np.empty((2, *counts, 3))
  for index in np.ndindex(*counts):
    rows, columns = (
      slice(math.floor(i * n / c), math.ceil((i + 1) * n / c))
      for i, n, c in zip(index, size, counts, strict=True)
    )
    expected[:, *index] = x[:, rows, columns].mean((1, 2))
  actual = pooling.adaptive_average_pool(x, count, train)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
  ('size', 'count', 'windows'),
  [
    ((16, 8), 4, 1),  # even
    ((17, 9), 4, 1),  # even, with a row in common
    ((17, 9), 1, 1),
    ((14, 8), 4, 0),  # rows 0 to 4, 3 to 7, 7 to 11, 10 to 14
  ],
)
def test_uniform_cells_use_windows(size, count, windows):
  x = jnp.zeros((1, *size, 3))
  pool = jax.make_jaxpr(
    lambda x: pooling.adaptive_average_pool(x, count, False)
  )(x)
  assert str(pool).count('reduce_window_sum') == windows
  pool = jax.make_jaxpr(
    lambda x: pooling.adaptive_average_pool(x, count, True)
  )(x)
  assert 'reduce_window' not in str(pool)


def test_windows_by_hand():
  x = np.arange(20, dtype=np.float32).reshape(1, 4, 5, 1)
  # Means of 3 x 2 windows, one row and three columns apart: center values.
  y = pooling.average_pool(x, (3, 2), (1, 3))
  assert y[0, ..., 0].tolist() == [[5.5, 8.5], [10.5, 13.5]]


def test_bfloat16_is_summed_in_float32():
  x = jnp.full((1, 64, 64, 1), 1.0078125, jnp.bfloat16)
  for train in (False, True):
    y = pooling.adaptive_average_pool(x, 1, train)
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0, 0]) == 1.0078125


def test_check_batch_size():
  pooling.check_batch_size(2, layers.Options())
  pooling.check_batch_size(1, layers.Options(frozen_norms=True))
  with pytest.raises(ValueError, match='raise batch_size to 2 or more'):
    pooling.check_batch_size(1, layers.Options())


@pytest.mark.parametrize('padding', ['symmetric', 'same', 'keras'])
@pytest.mark.parametrize('size', [(7, 8), (8, 9)])
def test_max_pool_equals_the_definition(padding, size):
  x = np.random.default_rng(0).uniform(size=(2, *size, 3)).astype(np.float32)
  pads = layers.explicit_padding(padding, size, 3, 2, 1)
  padded = np.pad(
    x, ((0, 0), *pads, (0, 0)), mode='constant', constant_values=-1
  )
  rows, columns = -(-size[0] // 2), -(-size[1] // 2)
  expected = np.zeros((2, rows, columns, 3), np.float32)
  for i in range(rows):
    for j in range(columns):
      window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
      expected[:, i, j] = window.max(axis=(1, 2))
  y = pooling.max_pool(x, padding)
  np.testing.assert_array_equal(y, expected)


def test_sums_beyond_float32_precision():
  """Means of 16-bit numbers, whose sums exceed float32's precision."""
  whole = np.random.default_rng(0).integers(20_000, 2**15, (1, 65, 65, 8))
  with jax.enable_x64(True):
    x = jnp.asarray(whole, jnp.float64)
    found = np.asarray(
      jax.jit(lambda x: pooling.adaptive_average_pool(x, 1, False))(x)
    )
  expected = [[[[int(n) / 65**2 for n in whole.sum((0, 1, 2))]]]]
  np.testing.assert_allclose(found, expected, rtol=1e-14)
