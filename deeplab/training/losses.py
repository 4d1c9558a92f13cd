"""What a run minimises: a weighted sum of terms over the global batch.

A term says what one device's share of it is. Shares add up over the devices to
the term, and the gradient of a share is the term's with respect to what that
device computed: how a batch is cut changes nothing but rounding. That holds
for terms that look at the whole batch too, the hardest pixels or the overlap
of a class, which PyTorch's systems take of each device's images apart.

Void pixels are in no term. Terms over pixels are in `pixels.py`, terms over
regions in `regions.py`.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from deeplab.training import limits
from deeplab.training import pixel_losses
from deeplab.training import region_losses

Array = jax.Array

NORMALIZERS = ('valid', 'all', 'weight')


@dataclasses.dataclass(frozen=True)
class LossTerm:
  """A term of a loss.

  Attributes:
    name: one of `TERMS`.
    weight: its factor in the sum.
    fields: its own parameters, all of them.
  """

  name: str
  weight: float = 1.0
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.name not in TERMS:
      raise ValueError(f'loss term {self.name!r} is not one of {sorted(TERMS)}')


@dataclasses.dataclass(frozen=True)
class Loss:
  """A sum of terms of the main and the auxiliary outputs.

  Attributes:
    ignore: label id of pixels that carry no loss.
    normalizer: a sum over pixels is divided by the number of 'valid' pixels
      (PyTorch without weights, optax), by the number of 'all' pixels, ignored
      ones too (mmsegmentation's default), or by the summed 'weight' of the
      valid pixels (PyTorch with class weights).
    class_weights: one weight a class, in the terms over pixels; empty for 1
      everywhere.
    weighted_steps: share of the steps in which class weights hold; 1 in the
      others (edgeai-torchvision).
    auxiliary_weight: factor of each auxiliary output's loss, whether it comes
      from the auxiliary head or from the head itself.
    terms: of the main output.
    auxiliary_terms: of each auxiliary output; empty for `terms`.
  """

  ignore: int
  normalizer: str
  class_weights: tuple[float, ...]
  auxiliary_weight: float
  terms: tuple[LossTerm, ...] = dataclasses.field(
    default_factory=lambda: (LossTerm('cross_entropy'),)
  )
  auxiliary_terms: tuple[LossTerm, ...] = ()
  weighted_steps: float = 1.0

  def __post_init__(self):
    if self.normalizer not in NORMALIZERS:
      raise ValueError(
        f'loss.normalizer={self.normalizer!r} is not one of {NORMALIZERS}'
      )
    if not 0 <= self.weighted_steps <= 1:
      raise ValueError(
        f'loss.weighted_steps={self.weighted_steps} is no share of the steps: '
        'give 0 to 1'
      )
    if not self.terms:
      raise ValueError(
        f'loss.terms=() leaves no loss; name some of {sorted(TERMS)}'
      )

  @property
  def separable(self) -> bool:
    """Whether parts of a batch need to know only `count` of the others."""
    terms = self.terms + self.auxiliary_terms
    return all(term.name in SEPARABLE for term in terms)

  def sample_class_weighting(self, seed: int, step: Array) -> Array | None:
    """Returns whether class weights hold in a step; None: in every one."""
    if self.weighted_steps == 1 or not self.class_weights:
      return None
    key = jax.random.fold_in(jax.random.key(seed), 0x3E1)
    key = jax.random.fold_in(key, step)
    return jax.random.bernoulli(key, self.weighted_steps)

  def _pixel_weights(self, labels: Array, weighted: Array | None) -> Array:
    """Returns the weight of each pixel, [B, H, W] float32, 0 if ignored."""
    valid = labels != self.ignore
    if not self.class_weights:
      return valid.astype(jnp.float32)
    table = jnp.asarray(self.class_weights, jnp.float32)
    if weighted is not None:
      table = jnp.where(weighted, table, 1.0)
    ids = jnp.clip(labels.astype(jnp.int32), 0, len(table) - 1)
    return jnp.where(valid, table[ids], 0.0)

  def compute_normalizer(
    self,
    labels: Array,
    axis_name: str | None,
    weighted: Array | None = None,
  ) -> Array:
    """Returns the normaliser of the global batch, float32, 1 in place of 0.

    Args:
      labels: [B, H, W] integer train ids of this device.
      axis_name: pmap axis, or None.
      weighted: of the method of this name.
    """
    if self.normalizer == 'all':
      count = jnp.float32(labels.size)
    elif self.normalizer == 'weight':
      count = self._pixel_weights(labels, weighted).sum()
    else:
      count = (labels != self.ignore).sum().astype(jnp.float32)
    return pixel_losses.nonzero_or_one(
      region_losses.sum_with_local_gradient(count, axis_name)
    )

  def device_loss(
    self,
    logits: Array,
    auxiliary: tuple[Array, ...],
    labels: Array,
    count: Array,
    axis_name: str | None,
    weighted: Array | None = None,
    step: Array | int = 0,
  ) -> tuple[Array, Array]:
    """Returns this device's share of the loss, and of the main output's part.

    Args:
      logits: [B, H, W, K] float32.
      auxiliary: further logits of the same shape.
      labels: [B, H, W] integer train ids. Where the loss is `separable` the
        batch may be a part of the device's.
      count: `count` of the global batch.
      axis_name: pmap axis, or None.
      weighted: of the method of this name.
      step: steps done, for terms that change with them.

    Returns:
      (total, main) float32 scalars; a batch of ignored pixels alone gives 0,
      and finite gradients.
    """
    weights = self._pixel_weights(labels, weighted)

    def of(logits, terms):
      x = pixel_losses.LossInputs(
        logits.astype(jnp.float32),
        labels.astype(jnp.int32),
        labels != self.ignore,
        weights,
        count,
        self.normalizer,
        axis_name,
        step,
      )
      return sum(
        (t.weight * TERMS[t.name](x, **t.fields) for t in terms),
        start=jnp.float32(0),
      )

    total = main = of(logits, self.terms)
    for extra in auxiliary:
      loss = of(extra, self.auxiliary_terms or self.terms)
      total = total + self.auxiliary_weight * loss
    return total, main


# Every term, by the name that configs use.
TERMS: dict[str, Callable[..., Array]] = {
  'cross_entropy': pixel_losses.softmax_cross_entropy,
  'sigmoid_cross_entropy': pixel_losses.sigmoid_cross_entropy,
  'focal': pixel_losses.focal,
  'ohem': pixel_losses.ohem,
  'hardest': pixel_losses.hard_example_mining,
  'dice': region_losses.dice,
  'tversky': region_losses.tversky,
  'lovasz': region_losses.lovasz,
}
# Sums over pixels whose normaliser is known from the labels.
SEPARABLE = ('cross_entropy', 'sigmoid_cross_entropy', 'focal')


def build_loss(config: Any, num_classes: int, ignore: int) -> Loss:
  """Builds the loss from the config's `loss` section.

  Args:
    config: `normalizer`, `class_weights`, `auxiliary_weight`, the names in
      `terms` and `auxiliary_terms`, and under each name the term's `weight` and
      its own parameters.
    num_classes: classes that the labels tell apart.
    ignore: label id of pixels that carry no loss.

  Raises:
    ValueError: an unknown term or normaliser, no term, or the number of class
      weights is not the number of classes.
  """
  weights = tuple(config.class_weights)
  limits.check_class_weights(weights, num_classes)

  def term(name: str) -> LossTerm:
    fields = dict(config[name]) if name in TERMS else {}
    return LossTerm(name, fields.pop('weight', 1.0), fields)

  return Loss(
    ignore=ignore,
    normalizer=config.normalizer,
    class_weights=weights,
    auxiliary_weight=config.auxiliary_weight,
    terms=tuple(term(name) for name in config.terms),
    auxiliary_terms=tuple(term(name) for name in config.auxiliary_terms),
    weighted_steps=config.weighted_steps,
  )
