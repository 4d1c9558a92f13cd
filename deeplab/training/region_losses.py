"""Losses of how well the regions of each class overlap, over a global batch.

A class counts where some pixel of the batch has it as its label; the loss is
the mean over those classes. Class weights are not used: such losses give every
class the same weight, however small it is.

`x` is a `pixels.Pixels`.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def sum_with_local_gradient(value: Array, axis_name: str | None) -> Array:
  """Returns the sum over devices, with the gradient of this device's part."""
  if axis_name is None:
    return value
  fixed = jax.lax.stop_gradient(value)
  return jax.lax.psum(fixed, axis_name) + (value - fixed)


def _device_share(value: Array, axis_name: str | None) -> Array:
  """Returns a device's share of a value that all devices know.

  Shares add up to the value; the gradient is the value's.
  """
  if axis_name is None:
    return value
  fixed = jax.lax.stop_gradient(value)
  return fixed / jax.lax.axis_size(axis_name) + (value - fixed)


def _one_hot(x: Any) -> Array:
  """Returns [B, H, W, K] bool, False where a pixel is ignored."""
  classes = jnp.arange(x.logits.shape[-1], dtype=jnp.int32)
  return (x.labels[..., None] == classes) & x.valid[..., None]


def tversky(
  x: Any, *, alpha: float, beta: float, gamma: float, smooth: float
) -> Array:
  """(1 - TP / (TP + alpha FP + beta FN)) ** gamma, of softmax probabilities.

  Salehi et al., arXiv:1706.05721; the exponent is that of the focal Tversky
  loss, Abraham and Khan, arXiv:1810.07842.

  Args:
    x: the pixels.
    alpha: weight of what is wrongly found.
    beta: weight of what is missed.
    gamma: exponent of each class's loss.
    smooth: added to numerator and denominator.
  """
  truth = _one_hot(x)
  found = jax.nn.softmax(x.logits) * x.valid[..., None]
  over = (0, 1, 2)
  hits = sum_with_local_gradient((found * truth).sum(over), x.axis_name)
  predicted = sum_with_local_gradient(found.sum(over), x.axis_name)
  labelled = sum_with_local_gradient(truth.sum(over) * 1.0, x.axis_name)
  denominator = hits + alpha * (predicted - hits) + beta * (labelled - hits)
  index = (hits + smooth) / jnp.maximum(denominator + smooth, 1e-7)
  # Not 0: a power below 1 would have an infinite slope there.
  losses = jnp.maximum(1 - index, 1e-7) ** gamma
  present = labelled > 0
  mean = jnp.where(present, losses, 0).sum() / jnp.maximum(present.sum(), 1)
  return _device_share(mean, x.axis_name)


def dice(x: Any, *, smooth: float) -> Array:
  """1 - 2 TP / (2 TP + FP + FN), of softmax probabilities.

  Milletari et al., "V-Net" (arXiv:1606.04797), with sums that are not squared.

  Args:
    x: the pixels.
    smooth: added to numerator and denominator.
  """
  return tversky(x, alpha=0.5, beta=0.5, gamma=1.0, smooth=smooth / 2)


def lovasz(x: Any) -> Array:
  """The Lovász extension of each class's Jaccard loss, of probabilities.

  Berman et al., "The Lovász-Softmax loss" (arXiv:1705.08790), over the batch.
  Every device sorts the errors of all devices, a class at a time.
  """
  found = jax.nn.softmax(x.logits)
  truth = _one_hot(x)
  errors = jnp.abs(truth - found)
  fixed = jax.lax.stop_gradient(errors)
  # Ignored pixels come last, where nothing is left to lose.
  fixed = jnp.where(x.valid[..., None], fixed, -1.0)
  classes = truth.shape[-1]
  columns = (fixed.reshape(-1, classes).T, truth.reshape(-1, classes).T)
  size = columns[0].shape[1]
  start = jnp.int32(0)
  if x.axis_name is not None:
    columns = jax.lax.all_gather(columns, x.axis_name, axis=1, tiled=True)
    start = jax.lax.axis_index(x.axis_name) * size

  def slope(column):
    """Returns the loss's slope in each of this device's errors, [N]."""
    order = jnp.argsort(-column[0])
    here = column[1][order].astype(jnp.int32)
    labelled = here.sum()
    missed = labelled - jnp.cumsum(here)
    union = labelled + jnp.cumsum(1 - here)
    jaccard = 1.0 - missed / jnp.maximum(union, 1)
    slopes = jnp.diff(jaccard, prepend=0.0) * (labelled > 0)
    slopes = jnp.zeros_like(slopes).at[order].set(slopes)
    return jax.lax.dynamic_slice(slopes, (start,), (size,)), labelled > 0

  slopes, present = jax.lax.map(slope, columns)
  slopes = slopes.T.reshape(errors.shape) * x.valid[..., None]
  return (slopes * errors).sum() / jnp.maximum(present.sum(), 1)
