"""Loss terms over regions: the overlap of prediction and label, by class.

A class counts if any pixel of the global batch has it as its label; a term is
the mean over these classes. Class weights are not used: such terms give every
class the same weight, however small its region is.

Each function returns one device's share of the term over the global batch. Its
keyword arguments are the fields of the term's section in `config.loss`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from deeplab.training import loss_inputs

Array = jax.Array


def _device_share(value: Array, axis_name: str | None) -> Array:
  """Returns this device's share of a value that all devices computed.

  The shares add up to the value; the gradient of a share is the gradient of
  the whole value.
  """
  if axis_name is None:
    return value
  fixed = jax.lax.stop_gradient(value)
  return fixed / jax.lax.axis_size(axis_name) + (value - fixed)


def _one_hot(x: loss_inputs.LossInputs) -> Array:
  """Returns one-hot labels, [B, H, W, K] bool, False at ignored pixels."""
  classes = jnp.arange(x.logits.shape[-1], dtype=jnp.int32)
  return (x.labels[..., None] == classes) & x.valid[..., None]


def tversky(
  x: loss_inputs.LossInputs,
  *,
  alpha: float,
  beta: float,
  gamma: float,
  smooth: float,
) -> Array:
  """(1 - TP / (TP + alpha FP + beta FN)) ** gamma, of softmax probabilities.

  Salehi et al., arXiv:1706.05721; the exponent is that of the focal Tversky
  loss, Abraham and Khan, arXiv:1810.07842.

  Args:
    x: logits [B, H, W, K] and labels [B, H, W] of this device.
    alpha: weight of false positives.
    beta: weight of false negatives.
    gamma: exponent of each class's loss.
    smooth: added to numerator and denominator.

  Returns:
    float32 scalar, this device's share; so do all terms.
  """
  truth = _one_hot(x)
  probabilities = jax.nn.softmax(x.logits) * x.valid[..., None]

  def sum_pixels(values: Array) -> Array:
    """Sums [B, H, W, K] over the pixels of all devices, to [K]."""
    return loss_inputs.sum_with_local_gradient(
      values.sum((0, 1, 2)), x.axis_name
    )

  hits = sum_pixels(probabilities * truth)
  predicted = sum_pixels(probabilities)
  labelled = loss_inputs.sum_with_local_gradient(
    truth.sum((0, 1, 2)) * 1.0, x.axis_name
  )
  denominator = hits + alpha * (predicted - hits) + beta * (labelled - hits)
  index = (hits + smooth) / jnp.maximum(denominator + smooth, 1e-7)
  # Not 0: a power below 1 would have an infinite gradient there.
  losses = jnp.maximum(1 - index, 1e-7) ** gamma
  present = labelled > 0
  mean = jnp.where(present, losses, 0).sum() / jnp.maximum(present.sum(), 1)
  return _device_share(mean, x.axis_name)


def dice(x: loss_inputs.LossInputs, *, smooth: float) -> Array:
  """1 - 2 TP / (2 TP + FP + FN), of softmax probabilities.

  Milletari et al., "V-Net" (arXiv:1606.04797), with sums that are not squared.

  Args:
    x: logits [B, H, W, K] and labels [B, H, W] of this device.
    smooth: added to numerator and denominator.
  """
  return tversky(x, alpha=0.5, beta=0.5, gamma=1.0, smooth=smooth / 2)


def lovasz(x: loss_inputs.LossInputs) -> Array:
  """The Lovász extension of each class's Jaccard loss, of probabilities.

  Berman et al., "The Lovász-Softmax loss" (arXiv:1705.08790), over the batch.
  Every device sorts the errors of all devices, one class at a time.

  Args:
    x: logits [B, H, W, K] and labels [B, H, W] of this device.
  """
  probabilities = jax.nn.softmax(x.logits)
  truth = _one_hot(x)
  errors = jnp.abs(truth - probabilities)
  fixed = jax.lax.stop_gradient(errors)
  # Ignored pixels are sorted last, where the Jaccard loss no longer grows.
  fixed = jnp.where(x.valid[..., None], fixed, -1.0)
  classes = truth.shape[-1]
  columns = (fixed.reshape(-1, classes).T, truth.reshape(-1, classes).T)
  size = columns[0].shape[1]
  start = jnp.int32(0)
  if x.axis_name is not None:
    columns = jax.lax.all_gather(columns, x.axis_name, axis=1, tiled=True)
    start = jax.lax.axis_index(x.axis_name) * size

  def class_gradient(column):
    """Returns the gradient for this device's errors, [N], and if it counts."""
    order = jnp.argsort(-column[0])
    in_label = column[1][order].astype(jnp.int32)
    labelled = in_label.sum()
    intersection = labelled - jnp.cumsum(in_label)
    union = labelled + jnp.cumsum(1 - in_label)
    jaccard = 1.0 - intersection / jnp.maximum(union, 1)
    gradient = jnp.diff(jaccard, prepend=0.0) * (labelled > 0)
    gradient = jnp.zeros_like(gradient).at[order].set(gradient)
    return jax.lax.dynamic_slice(gradient, (start,), (size,)), labelled > 0

  gradients, present = jax.lax.map(class_gradient, columns)
  gradients = gradients.T.reshape(errors.shape) * x.valid[..., None]
  return (gradients * errors).sum() / jnp.maximum(present.sum(), 1)


# Terms by the name that configs use.
REGION_TERMS: dict[str, Callable[..., Array]] = {
  'dice': dice,
  'tversky': tversky,
  'lovasz': lovasz,
}
