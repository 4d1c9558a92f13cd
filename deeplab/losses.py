"""Pixel losses that ignore void pixels.

A loss is kept as a sum and a normaliser, so that a batch split over devices
or over accumulation steps has exactly the gradient of the whole batch.
"""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array

NORMALIZERS = ('valid', 'all', 'weight')


@dataclasses.dataclass(frozen=True)
class Loss:
  """Masked softmax cross entropy of a main and its auxiliary outputs.

  Attributes:
    ignore: label id of pixels that carry no loss.
    normalizer: the sum over pixels is divided by the number of 'valid' pixels
      (PyTorch without weights, optax), by the number of 'all' pixels, ignored
      ones too (mmsegmentation's default), or by the summed 'weight' of the
      valid pixels (PyTorch with class weights).
    class_weights: one weight a class; empty for 1 everywhere.
    auxiliary_weight: factor of each auxiliary output's loss, whether it comes
      from the auxiliary head or from the head itself.
  """

  ignore: int
  normalizer: str
  class_weights: tuple[float, ...]
  auxiliary_weight: float

  def __post_init__(self):
    if self.normalizer not in NORMALIZERS:
      raise ValueError(
        f'loss.normalizer={self.normalizer!r} is not one of {NORMALIZERS}'
      )

  def _weights(self, labels: Array) -> Array:
    """Returns the weight of each pixel, [B, H, W] float32, 0 if ignored."""
    valid = labels != self.ignore
    if not self.class_weights:
      return valid.astype(jnp.float32)
    table = jnp.asarray(self.class_weights, jnp.float32)
    ids = jnp.clip(labels.astype(jnp.int32), 0, len(table) - 1)
    return jnp.where(valid, table[ids], 0.0)

  def count(self, labels: Array) -> Array:
    """Returns this batch's share of the normaliser, float32 scalar.

    Args:
      labels: [B, H, W] integer train ids.
    """
    if self.normalizer == 'all':
      return jnp.float32(labels.size)
    if self.normalizer == 'weight':
      return self._weights(labels).sum()
    return (labels != self.ignore).sum().astype(jnp.float32)

  def sum(
    self, logits: Array, auxiliary: tuple[Array, ...], labels: Array
  ) -> tuple[Array, Array]:
    """Returns the summed loss and the main output's part of it.

    Args:
      logits: [B, H, W, K] float32.
      auxiliary: further logits of the same shape.
      labels: [B, H, W] integer train ids.

    Returns:
      (total, main) float32 scalars, to be divided by `count` of the whole
      batch: a batch of ignored pixels alone gives 0.
    """
    weights = self._weights(labels)
    main = (weights * cross_entropy(logits, labels)).sum()
    total = main
    for extra in auxiliary:
      loss = (weights * cross_entropy(extra, labels)).sum()
      total = total + self.auxiliary_weight * loss
    return total, main


def cross_entropy(logits: Array, labels: Array) -> Array:
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
