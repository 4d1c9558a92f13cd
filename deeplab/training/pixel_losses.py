"""Loss terms that sum over pixels: cross entropy, focal, hard pixel mining.

Each function returns one device's share of the term over the global batch. Its
keyword arguments are the fields of the term's section in `config.loss`.
"""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp

from deeplab.training import loss_inputs

Array = jax.Array


def cross_entropy_per_pixel(logits: Array, labels: Array) -> Array:
  """Returns the softmax cross entropy of every pixel, computed in float32.

  Args:
    logits: [B, H, W, K].
    labels: [B, H, W] integer train ids. An id outside 0..K-1 gives the
      log-sum-exp of the logits: mask such pixels.

  Returns:
    [B, H, W] float32, in nats.
  """
  logits = logits.astype(jnp.float32)
  classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)
  picked = labels.astype(jnp.int32)[..., None] == classes
  # A comparison fuses with its neighbors; a gather's gradient is a scatter.
  return jax.nn.logsumexp(logits, axis=-1) - jnp.where(picked, logits, 0).sum(
    -1
  )


def softmax_cross_entropy(x: loss_inputs.LossInputs) -> Array:
  """Softmax cross entropy, a weighted sum over pixels.

  Args:
    x: logits [B, H, W, K], labels and weights [B, H, W] of this device.

  Returns:
    float32 scalar, this device's share; so do all terms.
  """
  return (
    x.weights * cross_entropy_per_pixel(x.logits, x.labels)
  ).sum() / x.count


def sigmoid_cross_entropy(x: loss_inputs.LossInputs) -> Array:
  """Binary cross entropy of each class against the rest, mean over classes.

  It is Keras' `BinaryCrossentropy` on one-hot labels.

  Args:
    x: logits [B, H, W, K], labels and weights [B, H, W] of this device.
  """
  classes = jnp.arange(x.logits.shape[-1], dtype=jnp.int32)
  signs = jnp.where(x.labels[..., None] == classes, -1.0, 1.0)
  losses = jax.nn.softplus(signs * x.logits).mean(-1)
  return (x.weights * losses).sum() / x.count


def focal(x: loss_inputs.LossInputs, *, gamma: float) -> Array:
  """Softmax cross entropy, times (1 - p) ** gamma of the true class.

  Lin et al., "Focal Loss for Dense Object Detection" (arXiv:1708.02002). The
  paper's alpha is `loss.class_weights`.

  Args:
    x: logits [B, H, W, K], labels and weights [B, H, W] of this device.
    gamma: exponent; 0 gives cross entropy.
  """
  loss = cross_entropy_per_pixel(x.logits, x.labels)
  # Not 0: a power below 1 would have an infinite gradient there.
  wrong = jnp.maximum(-jnp.expm1(-loss), 1e-7)
  return (x.weights * wrong**gamma * loss).sum() / x.count


def ohem(
  x: loss_inputs.LossInputs, *, threshold: float, min_kept: int
) -> Array:
  """Softmax cross entropy of the hard pixels only (OHEM).

  Online hard example mining, Shrivastava et al., arXiv:1604.03540, applied to
  pixels as in mmsegmentation's `OHEMPixelSampler` and PaddleSeg's
  `OhemCrossEntropyLoss`. These select pixels among the images of one device;
  this function selects among the global batch.

  Args:
    x: logits [B, H, W, K], labels and weights [B, H, W] of this device. Under
      the normalizer 'valid' (PaddleSeg) the sum is divided by the number of
      kept pixels, under 'weight' by their summed weight, and under 'all'
      (mmsegmentation) by the number of all pixels.
    threshold: a pixel is kept if its true class has a lower probability. 0
      keeps the `min_kept` pixels of the largest (weighted) loss instead.
    min_kept: pixels per image, on average over the batch, that are kept in any
      case, hardest first; ties are all kept. If fewer pixels are valid, all of
      them are kept.
  """
  loss = cross_entropy_per_pixel(x.logits, x.labels)
  hardness = jax.lax.stop_gradient(loss if threshold else x.weights * loss)
  images = loss_inputs.sum_with_local_gradient(
    jnp.int32(x.labels.shape[0]), x.axis_name
  )
  kept = _top_k_mask(hardness, x.valid, min_kept * images, x.axis_name)
  if threshold:
    kept |= x.valid & (hardness > -math.log(threshold))
  return _normalized_sum(x, loss, kept)


def hard_example_mining(
  x: loss_inputs.LossInputs, *, share: float, ramp_steps: int
) -> Array:
  """Softmax cross entropy of the hardest share of the pixels.

  It is TF DeepLab's hard example mining (`top_k_percent_pixels` and
  `hard_example_mining_step`), which selects among the images of one device;
  this function selects among the global batch. Pixels of loss 0 are not
  counted.

  Args:
    x: logits [B, H, W, K], labels and weights [B, H, W] of this device. The sum
      is divided by the number of kept pixels under the normalizer 'valid' (TF
      DeepLab), by their summed weight under 'weight', and by the number of all
      pixels under 'all'.
    share: share of all pixels, ignored ones included, that is kept, by the
      (weighted) loss; ties are all kept.
    ramp_steps: number of steps in which the share falls linearly from 1 to
      `share`. 0: `share` holds from the first step on.

  Raises:
    ValueError: `share` is not in (0, 1], or `ramp_steps` is negative.
  """
  if not 0 < share <= 1 or ramp_steps < 0:
    raise ValueError(
      f'loss.hardest.share={share} must lie in (0, 1] and ramp_steps='
      f'{ramp_steps} must be 0 or more'
    )
  loss = cross_entropy_per_pixel(x.logits, x.labels)
  hardness = jax.lax.stop_gradient(x.weights * loss)
  pixels = loss_inputs.sum_with_local_gradient(
    jnp.float32(x.labels.size), x.axis_name
  )
  done = jnp.minimum(x.step / ramp_steps, 1.0) if ramp_steps else 1.0
  k = ((done * share + (1 - done)) * pixels).astype(jnp.int32)
  kept = _top_k_mask(hardness, x.valid, k, x.axis_name) & (hardness > 0)
  return _normalized_sum(x, loss, kept)


def _normalized_sum(
  x: loss_inputs.LossInputs, loss: Array, kept: Array
) -> Array:
  """Sums the losses of the kept pixels, and divides by their normalizer.

  Args:
    x: inputs of the term.
    loss: [B, H, W] float32 loss of every pixel.
    kept: [B, H, W] bool, True where a pixel counts.
  """
  weights = x.weights * kept
  count = {
    'all': x.count,
    'valid': loss_inputs.nonzero_or_one(
      loss_inputs.sum_with_local_gradient(kept.sum() * 1.0, x.axis_name)
    ),
    'weight': loss_inputs.nonzero_or_one(
      loss_inputs.sum_with_local_gradient(weights.sum(), x.axis_name)
    ),
  }[x.normalizer]
  return (weights * loss).sum() / count


def _top_k_mask(
  values: Array, valid: Array, k: Array, axis_name: str | None
) -> Array:
  """Returns a mask of the k largest valid values of all devices.

  The bit patterns of non-negative floats are ordered as the floats are. So the
  k-th largest value is found bit by bit, by counting, with no sort and no copy
  of the other devices' pixels.

  Args:
    values: float32 of any shape; negative values count as 0.
    valid: bool of the same shape.
    k: int32 number of values; ties with the k-th one are all included.
    axis_name: pmap axis, or None.

  Returns:
    bool of the same shape.
  """
  bits = jax.lax.bitcast_convert_type(jnp.maximum(values, 0), jnp.int32)
  bits = jnp.where(valid, bits, -1)

  def refine(i, limit):
    higher = limit | (jnp.int32(1) << (30 - i))
    count = loss_inputs.sum_with_local_gradient(
      (bits >= higher).sum(), axis_name
    )
    return jnp.where(count >= k, higher, limit)

  return bits >= jax.lax.fori_loop(0, 31, refine, jnp.int32(0))


# Terms by the name that configs use. The sum of a separable term needs only the
# normalizer of the other parts of a batch, and that is known from the labels.
SEPARABLE_TERMS: dict[str, Callable[..., Array]] = {
  'cross_entropy': softmax_cross_entropy,
  'sigmoid_cross_entropy': sigmoid_cross_entropy,
  'focal': focal,
}
HARD_PIXEL_TERMS: dict[str, Callable[..., Array]] = {
  'ohem': ohem,
  'hardest': hard_example_mining,
}
