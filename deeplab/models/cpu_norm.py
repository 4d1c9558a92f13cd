"""BatchNorm and the activation after it, written for XLA's CPU back end.

It is used in training only, and its gradient is written by hand: differentiated
by JAX, BatchNorm sums products over all pixels in one expression, which that
back end computes slowly (the reasons are in `cpu_kernels`).
"""

import functools

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from deeplab.models import cpu_kernels

Array = jax.Array

ACTIVATIONS = ('relu', 'relu6', 'hard_swish', 'hard_sigmoid', 'none')


def _activate(activation: str, y: Array) -> Array:
  if activation == 'relu':
    return jnp.maximum(y, 0)
  if activation == 'relu6':
    return jnp.clip(y, 0, 6)
  if activation == 'hard_swish':
    return y * (jnp.clip(y + 3, 0, 6) / 6)
  if activation == 'hard_sigmoid':
    return jnp.clip(y + 3, 0, 6) / 6
  return y


def _activation_gradient(activation: str, y: Array, g: Array) -> Array:
  """Returns the gradient with respect to the activation's input y.

  It is 0 at the corners of piecewise linear activations.
  """
  if activation == 'relu':
    return jnp.where(y > 0, g, 0)
  if activation == 'relu6':
    return jnp.where((y > 0) & (y < 6), g, 0)
  if activation == 'hard_swish':
    outer = jnp.where(y > 0, g, 0)
    return jnp.where(jnp.abs(y) < 3, g * (y / 3 + 0.5), outer)
  if activation == 'hard_sigmoid':
    return jnp.where(jnp.abs(y) < 3, g / 6, 0)
  return g


def _broadcast_channels(x: Array) -> Array:
  return x[None, None, None]


def _mean_over_devices(sums: list[Array], x: Array, axis_name: str | None):
  """Returns sums over pixels as means over the pixels of all devices."""
  means = [s / (x.size // x.shape[3]) for s in sums]
  return means if axis_name is None else lax.pmean(means, axis_name)


def count_pixels(x: Array, axis_name: str | None) -> int:
  """Returns the number of values per channel over which BatchNorm averages.

  Args:
    x: [B, H, W, C], on each device.
    axis_name: pmap axis of the devices; None for one.
  """
  devices = 1 if axis_name is None else lax.axis_size(axis_name)
  return devices * (x.size // x.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def batch_norm(
  x: Array,
  scale: Array,
  bias: Array,
  epsilon: float,
  activation: str,
  axis_name: str | None,
) -> tuple[Array, Array, Array]:
  """Training-mode BatchNorm and the activation after it.

  Only the map is differentiated: gradients with respect to the returned
  statistics, which only feed running averages, are dropped.

  Args:
    x: [B, H, W, C]; computed in float32.
    scale: [C] float32.
    bias: [C] float32.
    epsilon: added to the variance.
    activation: one of `ACTIVATIONS`.
    axis_name: pmap axis over which statistics are averaged, or None.

  Returns:
    The activated map [B, H, W, C] in x's dtype, and the batch's mean [C] and
    biased variance [C] in float32.
  """
  return _batch_norm_forward(x, scale, bias, epsilon, activation, axis_name)[0]


def _batch_norm_forward(x, scale, bias, epsilon, activation, axis_name):
  f32 = lambda x: x.astype(jnp.float32)
  sums = [
    cpu_kernels.sum_over_pixels(f32, x),
    cpu_kernels.sum_over_pixels(lambda x: f32(x) * f32(x), x),
  ]
  mean, square = _mean_over_devices(sums, x, axis_name)
  variance = jnp.maximum(square - mean * mean, 0)
  inverse = lax.rsqrt(variance + epsilon)
  y = (f32(x) - _broadcast_channels(mean)) * _broadcast_channels(
    inverse * scale
  ) + _broadcast_channels(bias)
  y = _activate(activation, y).astype(x.dtype)
  return (y, mean, variance), (x, scale, bias, mean, inverse)


def _batch_norm_backward(epsilon, activation, axis_name, residuals, gradients):
  del epsilon
  x, scale, bias, mean, inverse = residuals
  slope = inverse * scale

  def centered(x):
    return x.astype(jnp.float32) - _broadcast_channels(mean)

  def gated(x, g):
    y = centered(x) * _broadcast_channels(slope) + _broadcast_channels(bias)
    return _activation_gradient(activation, y, g.astype(jnp.float32))

  g = gradients[0]
  dbias = cpu_kernels.sum_over_pixels(gated, x, g)
  dscale = cpu_kernels.sum_over_pixels(
    lambda x, g: gated(x, g) * centered(x), x, g
  )
  dscale = dscale * inverse
  # The statistics depend on x too; over a pmap axis, on every device's x.
  by_mean, by_spread = _mean_over_devices([dbias, dscale], x, axis_name)
  dx = (
    gated(x, g)
    - _broadcast_channels(by_mean)
    - centered(x) * _broadcast_channels(inverse * by_spread)
  )
  return (dx * _broadcast_channels(slope)).astype(x.dtype), dscale, dbias


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


class BatchNorm(nn.Module):
  """`nn.BatchNorm` in training mode, and an activation.

  Its variables are those of `nn.BatchNorm`, so the two are interchangeable.

  Attributes:
    decay: share of the old running statistic kept at each step.
    epsilon: added to the variance.
    activation: one of `ACTIVATIONS`.
    axis_name: pmap axis over which statistics are averaged, or None.
    unbiased_variance: the running variance averages n / (n - 1) times the
      variance of a batch of n pixels.
  """

  decay: float
  epsilon: float
  activation: str
  axis_name: str | None
  unbiased_variance: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalizes [B, H, W, C] and updates the running statistics."""
    shape, one, zero = x.shape[-1:], nn.initializers.ones, nn.initializers.zeros
    scale = self.param('scale', one, shape, jnp.float32)
    bias = self.param('bias', zero, shape, jnp.float32)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
    initializing = self.is_initializing()
    y, batch_mean, batch_var = batch_norm(
      x,
      scale,
      bias,
      self.epsilon,
      self.activation,
      None if initializing else self.axis_name,
    )
    if not initializing:
      if self.unbiased_variance:
        n = count_pixels(x, self.axis_name)
        batch_var = batch_var * (n / max(n - 1, 1))
      mean.value = self.decay * mean.value + (1 - self.decay) * batch_mean
      var.value = self.decay * var.value + (1 - self.decay) * batch_var
    return y
