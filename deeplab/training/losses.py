"""The training loss: a weighted sum of terms over the global batch.

A term returns one device's share of it. Shares add up over the devices to the
term, and the gradient of a share is the term's with respect to what that device
computed: how a batch is split changes nothing but rounding. This includes terms
that need the whole batch, such as the hardest pixels or the overlap of a class,
which PyTorch's systems compute on each device separately.

Ignored pixels contribute to no term. Terms over pixels are in
`pixel_losses.py`, terms over regions in `region_losses.py`; each file ends with
the table that registers its terms.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from deeplab.training import limits
from deeplab.training import loss_inputs
from deeplab.training import pixel_losses
from deeplab.training import region_losses

Array = jax.Array

NORMALIZERS = ('valid', 'all', 'weight')

TERMS: dict[str, Callable[..., Array]] = {
  **pixel_losses.SEPARABLE_TERMS,
  **pixel_losses.HARD_PIXEL_TERMS,
  **region_losses.REGION_TERMS,
}


@dataclasses.dataclass(frozen=True)
class LossTerm:
  """One term of the sum.

  Attributes:
    name: a key of `TERMS`.
    weight: factor of the term in the sum.
    fields: all parameters of the term, by name.
  """

  name: str
  weight: float = 1.0
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.name not in TERMS:
      raise ValueError(f'loss term {self.name!r} is not one of {sorted(TERMS)}')


@dataclasses.dataclass(frozen=True)
class Loss:
  """The loss: a sum of terms of the main and the auxiliary outputs.

  Attributes:
    ignore: label id of pixels that are ignored.
    normalizer: a sum over pixels is divided by the number of 'valid' pixels
      (PyTorch without weights, optax), by the number of 'all' pixels, ignored
      ones included (mmsegmentation's default), or by the summed 'weight' of
      the valid pixels (PyTorch with class weights).
    class_weights: one weight for each class, in the terms over pixels; empty
      for 1 everywhere.
    auxiliary_weight: factor of each auxiliary output's loss, whether the output
      comes from the auxiliary head or from the head itself.
    terms: terms of the main output.
    auxiliary_terms: terms of each auxiliary output; empty for `terms`.
    weighted_steps: share of the steps in which class weights hold; in the
      other steps all weights are 1 (edgeai-torchvision).
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
        f'loss.weighted_steps={self.weighted_steps} is not a share of the '
        'steps: give 0 to 1'
      )
    if not self.terms:
      raise ValueError(
        f'loss.terms=() leaves no loss; name one or more of {sorted(TERMS)}'
      )

  @property
  def separable(self) -> bool:
    """True if a part of a batch needs only the normalizer of the others."""
    terms = self.terms + self.auxiliary_terms
    return all(term.name in pixel_losses.SEPARABLE_TERMS for term in terms)

  def sample_class_weighting(self, seed: int, step: Array) -> Array | None:
    """Draws if class weights hold in a step.

    Args:
      seed: seed of the run.
      step: int32 number of the step.

    Returns:
      bool scalar; None if class weights hold in every step.
    """
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
    """Returns the normalizer of the global batch, with 1 in place of 0.

    Args:
      labels: [B, H, W] integer train ids of this device.
      axis_name: pmap axis, or None.
      weighted: the result of `sample_class_weighting`.

    Returns:
      float32 scalar.
    """
    if self.normalizer == 'all':
      count = jnp.float32(labels.size)
    elif self.normalizer == 'weight':
      count = self._pixel_weights(labels, weighted).sum()
    else:
      count = (labels != self.ignore).sum().astype(jnp.float32)
    return loss_inputs.nonzero_or_one(
      loss_inputs.sum_with_local_gradient(count, axis_name)
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
    """Computes this device's share of the loss, and of the main output's part.

    Args:
      logits: [B, H, W, K] float32.
      auxiliary: further logits of the same shape.
      labels: [B, H, W] integer train ids. If the loss is `separable`, they may
        be of a part of the device's batch.
      count: the result of `compute_normalizer` for the global batch.
      axis_name: pmap axis, or None.
      weighted: the result of `sample_class_weighting`.
      step: number of steps taken, for terms that change with it.

    Returns:
      (total, main): float32 scalars. If all pixels are ignored, they are 0 and
      gradients are finite.
    """
    weights = self._pixel_weights(labels, weighted)

    def sum_terms(logits, terms):
      x = loss_inputs.LossInputs(
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

    total = main = sum_terms(logits, self.terms)
    for extra in auxiliary:
      loss = sum_terms(extra, self.auxiliary_terms or self.terms)
      total = total + self.auxiliary_weight * loss
    return total, main


def build_loss(config: Any, num_classes: int, ignore: int) -> Loss:
  """Builds the loss from the config's `loss` section.

  Args:
    config: the section `loss`: `normalizer`, `class_weights`, `weighted_steps`,
      `auxiliary_weight`, the names in `terms` and `auxiliary_terms`, and under
      each name the term's `weight` and its own parameters.
    num_classes: number of classes.
    ignore: label id of pixels that are ignored.

  Raises:
    ValueError: a term or the normalizer is unknown, there is no term, or the
      number of class weights is not the number of classes.
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
