import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import cpu_kernels
from deeplab.models import layers


def random(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def cotangent(y):
  """Returns a cotangent for the map y."""
  return random(*y.shape, seed=7)


def value_and_gradients(function, x, kernel):
  """Returns the map and its gradients by x and kernel, under `cotangent`."""

  # Compilation takes nearly all the time of these tests.
  @functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0}
  )
  def run(x, kernel):
    y, backward = jax.vjp(function, x, kernel)
    return y, *backward(cotangent(y).astype(y.dtype))

  return run(x, kernel)


def by_definition(x, kernel, stride, rate, pads):
  """Returns map and gradients from the definition, tap by tap, in float64."""
  x, kernel = np.float64(x), np.float64(kernel)
  shape, (height, width) = kernel.shape[:2], x.shape[1:3]
  padded = np.pad(x, ((0, 0), *pads, (0, 0)))
  out = [
    (n - (k - 1) * rate - 1) // stride + 1
    for n, k in zip(padded.shape[1:3], shape, strict=True)
  ]
  y = np.zeros((x.shape[0], *out, x.shape[3]))
  g = np.float64(cotangent(y))
  dpadded, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
  for i in range(shape[0]):
    for j in range(shape[1]):
      read = np.s_[
        :,
        i * rate : i * rate + (out[0] - 1) * stride + 1 : stride,
        j * rate : j * rate + (out[1] - 1) * stride + 1 : stride,
      ]
      y += padded[read] * kernel[i, j]
      dpadded[read] += g * kernel[i, j]
      dkernel[i, j, 0] = (padded[read] * g).sum((0, 1, 2))
  (top, _), (left, _) = pads
  dx = dpadded[:, top : top + height, left : left + width]
  return y, dx, dkernel


def assert_all_close(actual, expected, tolerance):
  for a, b in zip(actual, expected, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(
      np.asarray(a, np.float32), b, rtol=0, atol=tolerance * np.abs(b).max()
    )


# Rates above a quarter of the map use the sparse form; from the map's size on,
# most taps read only padding.
@pytest.mark.parametrize(
  ('size', 'stride', 'rate', 'padding'),
  [
    ((8, 11), 1, 1, 'same'),
    ((13, 12), 1, 2, 'symmetric'),
    ((13, 12), 1, 3, 'same'),
    ((8, 11), 1, 3, 'symmetric'),
    ((8, 11), 1, 9, 'keras'),
    ((8, 11), 1, 30, 'symmetric'),
    ((8, 10), 2, 1, 'same'),
    ((9, 11), 2, 1, 'same'),
    ((8, 11), 2, 1, 'symmetric'),
    ((8, 11), 2, 1, 'keras'),
    ((8, 11), 2, 2, 'symmetric'),
    ((13, 12), 2, 3, 'same'),
    ((10, 11), 3, 1, 'same'),
  ],
)
def test_depthwise_equals_the_convolution(size, stride, rate, padding):
  pads = layers.explicit_padding(padding, size, 3, stride, rate)
  x, kernel = random(2, *size, 3), random(3, 3, 1, 3, seed=1)
  function = lambda x, kernel: cpu_kernels.depthwise_conv(
    x, kernel, stride, rate, pads
  )
  actual = value_and_gradients(function, x, kernel)
  expected = by_definition(x, kernel, stride, rate, pads)
  assert_all_close(actual, expected, 2e-6)


@pytest.mark.parametrize(
  ('size', 'kernel', 'stride', 'rate', 'pads'),
  [
    ((6, 7), (1, 1), 2, 1, ((0, 0), (0, 0))),
    ((9, 8), (5, 5), 2, 1, ((2, 2), (2, 2))),
    ((9, 8), (3, 3), 1, 1, ((0, 0), (0, 0))),
    ((9, 8), (3, 3), 1, 3, ((0, 1), (2, 0))),
    ((1, 1), (3, 3), 1, 6, ((6, 6), (6, 6))),
    ((9, 8), (3, 1), 1, 1, ((1, 1), (0, 0))),
    ((9, 8), (1, 5), 1, 4, ((0, 0), (8, 8))),
    ((9, 8), (3, 1), 2, 1, ((1, 1), (0, 0))),
  ],
)
def test_depthwise_other_kernels_and_padding(size, kernel, stride, rate, pads):
  x, kernel = random(3, *size, 2), random(*kernel, 1, 2, seed=1)
  function = lambda x, kernel: cpu_kernels.depthwise_conv(
    x, kernel, stride, rate, pads
  )
  actual = value_and_gradients(function, x, kernel)
  expected = by_definition(x, kernel, stride, rate, pads)
  assert_all_close(actual, expected, 2e-6)


def test_depthwise_literal():
  x = jnp.arange(1, 10, dtype=jnp.float32).reshape(1, 3, 3, 1)
  kernel = jnp.arange(9, dtype=jnp.float32).reshape(3, 3, 1, 1)
  pads = ((1, 1), (1, 1))
  function = lambda x, kernel: cpu_kernels.depthwise_conv(x, kernel, 2, 1, pads)
  y, backward = jax.vjp(jax.jit(function), x, kernel)
  # Bottom right taps of the kernel over the top left corner, and so on.
  assert y.ravel().tolist() == [
    4 * 1 + 5 * 2 + 7 * 4 + 8 * 5,
    3 * 2 + 4 * 3 + 6 * 5 + 7 * 6,
    1 * 4 + 2 * 5 + 4 * 7 + 5 * 8,
    0 * 5 + 1 * 6 + 3 * 8 + 4 * 9,
  ]
  dx, dkernel = backward(jnp.ones_like(y))
  # All four outputs read the middle pixel, through the four corners.
  assert dx[0, :, :, 0].tolist() == [[4, 8, 4], [8, 16, 8], [4, 8, 4]]
  assert dkernel[..., 0, 0].tolist() == [[5, 10, 5], [10, 20, 10], [5, 10, 5]]


@pytest.mark.parametrize(('stride', 'rate'), [(1, 1), (1, 6)])
def test_depthwise_bfloat16(stride, rate):
  x, kernel = random(2, 12, 12, 4), random(3, 3, 1, 4, seed=1)
  x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  pads = ((rate, rate), (rate, rate))
  function = lambda x, kernel: cpu_kernels.depthwise_conv(
    x, kernel, stride, rate, pads
  )
  actual = value_and_gradients(function, x, kernel)
  assert {a.dtype for a in actual} == {jnp.dtype(jnp.bfloat16)}
  expected = by_definition(
    x.astype(jnp.float32), kernel.astype(jnp.float32), stride, rate, pads
  )
  # One rounding of the cotangent and one of the result, 2 ** -9 each.
  assert_all_close(actual, expected, 0.008)


@pytest.mark.parametrize(('stride', 'rate'), [(1, 2), (2, 1)])
def test_both_implementations_of_the_layer_agree(stride, rate):
  x, kernel = random(2, 9, 10, 4), random(3, 3, 1, 4, seed=1)

  def form(name):
    layer = layers.Conv(
      4,
      kernel=3,
      stride=stride,
      rate=rate,
      groups=4,
      options=layers.Options(depthwise=name),
    )
    return lambda x, kernel: layer.apply({'params': {'kernel': kernel}}, x)

  actual = value_and_gradients(form('shifted'), x, kernel)
  expected = value_and_gradients(form('conv'), x, kernel)
  assert_all_close(actual, expected, 2e-6)


def test_pointwise_equals_the_convolution():
  x, kernel = random(2, 5, 3, 4), random(1, 1, 4, 6, seed=1)
  convolution = lambda x, kernel: lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  actual = value_and_gradients(cpu_kernels.pointwise_conv, x, kernel)
  expected = value_and_gradients(convolution, x, kernel)
  assert_all_close(actual, expected, 2e-6)


@pytest.mark.parametrize(
  'shape',
  [(1, 1, 1, 1), (3, 1, 1, 2), (7, 13, 5, 2), (4, 16, 16, 8), (16, 4, 64, 96)],
)
def test_sum_over_pixels(shape):
  x, y = random(*shape), random(*shape, seed=1)
  function = lambda x, y: x * y + 1
  actual = jax.jit(cpu_kernels.sum_over_pixels, static_argnums=0)(
    function, x, y
  )
  expected = (np.float64(x) * np.float64(y) + 1).sum((0, 1, 2))
  np.testing.assert_allclose(actual, expected, rtol=2e-5)


def test_strict_promotion():
  # The code does not rely on implicit broadcasting or type promotion.
  x, kernel = random(1, 4, 4, 2), random(3, 3, 1, 2, seed=1)
  x = x.astype(jnp.bfloat16)
  pads = ((1, 1), (1, 1))
  with (
    jax.numpy_dtype_promotion('strict'),
    jax.numpy_rank_promotion('raise'),
  ):
    function = lambda x, kernel: cpu_kernels.depthwise_conv(
      x, kernel, 2, 1, pads
    )

    def run(x, kernel):
      y, backward = jax.vjp(function, x, kernel)
      return backward(y)

    jax.eval_shape(run, x, kernel)
