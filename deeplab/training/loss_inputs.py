"""One device's inputs of a loss term, and sums over all devices.

A loss term is a function of `LossInputs` and its own parameters that returns
one device's share of the term: the shares of all devices add up to the term of
the global batch, and the gradient of a share is the term's gradient with
respect to what that device computed.
"""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LossInputs:
  """One device's logits and labels, and how sums over pixels are normalized.

  Attributes:
    logits: [B, H, W, K] float32.
    labels: [B, H, W] int32 train ids.
    valid: [B, H, W] bool, False where a pixel is ignored.
    weights: [B, H, W] float32, the class weight of each pixel, 0 if ignored.
    count: float32 normalizer of a sum over the pixels of all devices, not 0.
    normalizer: name of the normalizer, one of `losses.NORMALIZERS`.
    axis_name: pmap axis, or None.
    step: number of steps taken, int32.
  """

  logits: Array
  labels: Array
  valid: Array
  weights: Array
  count: Array
  normalizer: str
  axis_name: str | None
  step: Array | int


def sum_with_local_gradient(value: Array, axis_name: str | None) -> Array:
  """Sums arrays of any shape over devices, with the local gradient only."""
  if axis_name is None:
    return value
  fixed = jax.lax.stop_gradient(value)
  return jax.lax.psum(fixed, axis_name) + (value - fixed)


def nonzero_or_one(count: Array) -> Array:
  """Returns a scalar count, with 1 in place of 0."""
  return jnp.where(count > 0, count, 1.0)
