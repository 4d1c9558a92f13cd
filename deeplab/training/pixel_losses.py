"""Losses of single pixels, over a global batch.

Each is one device's share of a term, as `losses.py` says.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from deeplab.training import region_losses

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LossInputs:
  """One device's pixels, and how sums over them are normalised.

  Attributes:
    logits: [B, H, W, K] float32.
    labels: [B, H, W] int32 train ids.
    valid: [B, H, W] bool, False where a pixel is ignored.
    weights: [B, H, W] float32, the class weight of each pixel, 0 if ignored.
    count: normaliser of a sum over the pixels of all devices, not 0.
    normalizer: see `losses.Loss`.
    axis_name: pmap axis, or None.
    step: steps done, int32.
  """

  logits: Array
  labels: Array
  valid: Array
  weights: Array
  count: Array
  normalizer: str
  axis_name: str | None
  step: Array | int


def nonzero_or_one(count: Array) -> Array:
  """Returns the count, 1 in place of 0."""
  return jnp.where(count > 0, count, 1.0)


def cross_entropy_per_pixel(logits: Array, labels: Array) -> Array:
  """Returns the softmax cross entropy of every pixel.

  Args:
    logits: [B, H, W, K]; computed in float32.
    labels: [B, H, W] integer ids; an id outside 0..K-1 gives log-sum-exp, so
      mask it.

  Returns:
    [B, H, W] float32, in nats.
  """
  logits = logits.astype(jnp.float32)
  classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)
  picked = labels.astype(jnp.int32)[..., None] == classes
  # A comparison fuses with its neighbours; a gather's gradient is a scatter.
  return jax.nn.logsumexp(logits, axis=-1) - jnp.where(picked, logits, 0).sum(
    -1
  )


def softmax_cross_entropy(x: LossInputs) -> Array:
  """Softmax cross entropy."""
  return (
    x.weights * cross_entropy_per_pixel(x.logits, x.labels)
  ).sum() / x.count


def sigmoid_cross_entropy(x: LossInputs) -> Array:
  """Binary cross entropy of each class against the rest, mean over classes.

  Keras' `BinaryCrossentropy` on one-hot labels.
  """
  classes = jnp.arange(x.logits.shape[-1], dtype=jnp.int32)
  signs = jnp.where(x.labels[..., None] == classes, -1.0, 1.0)
  losses = jax.nn.softplus(signs * x.logits).mean(-1)
  return (x.weights * losses).sum() / x.count


def focal(x: LossInputs, *, gamma: float) -> Array:
  """Softmax cross entropy, times (1 - p) ** gamma of the true class.

  Lin et al., "Focal Loss for Dense Object Detection" (arXiv:1708.02002). Its
  alpha are the class weights.
  """
  loss = cross_entropy_per_pixel(x.logits, x.labels)
  # Not 0: a power below 1 would have an infinite slope there.
  wrong = jnp.maximum(-jnp.expm1(-loss), 1e-7)
  return (x.weights * wrong**gamma * loss).sum() / x.count


def ohem(x: LossInputs, *, threshold: float, min_kept: int) -> Array:
  """Softmax cross entropy of the hard pixels alone.

  Shrivastava et al., arXiv:1604.03540, as mmsegmentation's `OHEMPixelSampler`
  and PaddleSeg's `OhemCrossEntropyLoss` have it for pixels. They choose among
  the images of one device; here it is among all of the global batch.

  Args:
    x: the pixels. Under the normaliser 'valid' (PaddleSeg) the sum is divided
      by the number of kept pixels, under 'weight' by their summed weight, and
      under 'all' (mmsegmentation) by the number of all pixels.
    threshold: a pixel is kept if its true class has a lower probability. 0
      keeps the `min_kept` of the largest (weighted) loss instead.
    min_kept: pixels an image, on average over the batch, that are kept in any
      case, hardest first; equally hard ones are all kept. Where fewer are
      valid, all are.
  """
  loss = cross_entropy_per_pixel(x.logits, x.labels)
  hardness = jax.lax.stop_gradient(loss if threshold else x.weights * loss)
  images = region_losses.sum_with_local_gradient(
    jnp.int32(x.labels.shape[0]), x.axis_name
  )
  kept = _top_k_mask(hardness, x.valid, min_kept * images, x.axis_name)
  if threshold:
    kept |= x.valid & (hardness > -math.log(threshold))
  return _normalized_sum(x, loss, kept)


def hard_example_mining(
  x: LossInputs, *, share: float, ramp_steps: int
) -> Array:
  """Softmax cross entropy of a share of the pixels, the hardest ones, alone.

  TF DeepLab's hard example mining, which chooses among the images of one device
  (`top_k_percent_pixels` and `hard_example_mining_step`); here it is among all
  of the global batch. Pixels without any loss are not counted.

  Args:
    x: the pixels. The normaliser acts as in `ohem`; 'valid' is the original's.
    share: of all pixels, ignored ones too, that are kept by their (weighted)
      loss; equally hard ones are all kept.
    ramp_steps: the share falls from 1 in so many steps, linearly. 0: it holds
      from the first one on.

  Raises:
    ValueError: `share` is none of pixels, or `ramp_steps` is negative.
  """
  if not 0 < share <= 1 or ramp_steps < 0:
    raise ValueError(
      f'loss.hardest.share={share} must lie in (0, 1] and '
      f'ramp_steps={ramp_steps} be 0 or more'
    )
  loss = cross_entropy_per_pixel(x.logits, x.labels)
  hardness = jax.lax.stop_gradient(x.weights * loss)
  pixels = region_losses.sum_with_local_gradient(
    jnp.float32(x.labels.size), x.axis_name
  )
  done = jnp.minimum(x.step / ramp_steps, 1.0) if ramp_steps else 1.0
  k = ((done * share + (1 - done)) * pixels).astype(jnp.int32)
  kept = _top_k_mask(hardness, x.valid, k, x.axis_name) & (hardness > 0)
  return _normalized_sum(x, loss, kept)


def _normalized_sum(x: LossInputs, loss: Array, kept: Array) -> Array:
  """Returns the sum of kept losses by the normaliser that is theirs."""
  weights = x.weights * kept
  count = {
    'all': x.count,
    'valid': nonzero_or_one(
      region_losses.sum_with_local_gradient(kept.sum() * 1.0, x.axis_name)
    ),
    'weight': nonzero_or_one(
      region_losses.sum_with_local_gradient(weights.sum(), x.axis_name)
    ),
  }[x.normalizer]
  return (weights * loss).sum() / count


def _top_k_mask(
  values: Array, valid: Array, k: Array, axis_name: str | None
) -> Array:
  """Returns where the k largest valid values of all devices are.

  Bits of floats that are not negative are ordered as the floats are: the k-th
  largest is found bit by bit, by counting, with no sort and no copy of the
  other devices' pixels.

  Args:
    values: float32 of any shape; negative ones are 0.
    valid: bool of that shape.
    k: int32; values equal to the last one are all taken.
    axis_name: pmap axis, or None.
  """
  bits = jax.lax.bitcast_convert_type(jnp.maximum(values, 0), jnp.int32)
  bits = jnp.where(valid, bits, -1)

  def refine(i, limit):
    higher = limit | (jnp.int32(1) << (30 - i))
    count = region_losses.sum_with_local_gradient(
      (bits >= higher).sum(), axis_name
    )
    return jnp.where(count >= k, higher, limit)

  return bits >= jax.lax.fori_loop(0, 31, refine, jnp.int32(0))
