"""Class weights from how often each class is seen in the training split."""

from collections.abc import Callable

from ml_collections import ConfigDict
import numpy as np

from deeplab.data import datasets
from deeplab.training import limits


def inverse_frequency(frequencies: np.ndarray, power: float) -> np.ndarray:
  """`share ** -power`, 1 for the mean pixel."""
  weights = frequencies**-power
  return weights / (weights * frequencies).sum()


def median_frequency(frequencies: np.ndarray, power: float) -> np.ndarray:
  """Median frequency balancing, to a power (Eigen and Fergus, 1411.4734).

  A class's frequency is its share of the labelled pixels of the images that
  have it.
  """
  return (np.median(frequencies) / frequencies) ** power


def inverse_log_frequency(frequencies: np.ndarray, power: float) -> np.ndarray:
  """ENet's `1 / log(1.02 + share)`, to a power (arXiv:1606.02147)."""
  return np.log(1.02 + frequencies) ** -power


RULES = {
  'inverse': inverse_frequency,
  'median': median_frequency,
  'log': inverse_log_frequency,
}


def class_presence_shares(counts: np.ndarray) -> np.ndarray:
  """Returns the share of the labelled pixels whose image has each class.

  Args:
    counts: [N, K] labelled pixels of each image by class.

  Returns:
    [K] float64; 1 for a class that no image has.
  """
  totals = counts.sum(axis=1)
  seen = totals @ (counts > 0)
  return np.where(seen > 0, seen, totals.sum()) / totals.sum()


def compute_weights(
  shares: np.ndarray,
  counts: Callable[[], np.ndarray],
  rule: str,
  power: float,
) -> np.ndarray:
  """Returns weights that lift rare classes.

  Args:
    shares: [K] each class's share of the labelled pixels.
    counts: returns what `class_presence_shares` takes, for the rule that wants
      it.
    rule: a name in RULES.
    power: of the rule; 0 counts pixels alike.

  Returns:
    [K] float64 of three digits; 0 for a class without a pixel.

  Raises:
    ValueError: the rule is unknown.
  """
  make = _get_rule(rule)
  frequencies = (
    shares / class_presence_shares(counts()) if rule == 'median' else shares
  )
  there = shares > 0
  weights = np.zeros(len(shares))
  weights[there] = make(frequencies[there], power)
  return np.array([float(f'{weight:.3g}') for weight in weights])


def check_loss_config(loss: ConfigDict, num_classes: int) -> None:
  """Refuses class weights that fit no run.

  Args:
    loss: `config.loss`; reads `class_weights`, `balance_loss` and
      `balance_rule`.
    num_classes: classes that the labels tell apart.

  Raises:
    ValueError: both weights and balance are given, there is not one weight a
      class, or the rule is unknown.
  """
  _get_rule(loss.balance_rule)
  if loss.balance and loss.class_weights:
    raise ValueError(
      f'loss.balance={loss.balance} makes class weights, and '
      'loss.class_weights gives some already: set one of the two'
    )
  limits.check_class_weights(loss.class_weights, num_classes)


def balance_loss(config: ConfigDict, dataset: datasets.Dataset) -> ConfigDict:
  """Returns the config with the class weights that `loss.balance` asks for.

  Raises:
    ValueError: as `check_loss_config`, or no pixel of the training split is
      labelled.
  """
  check_loss_config(config.loss, dataset.info.num_classes)
  power, rule = config.loss.balance, config.loss.balance_rule
  if not power:
    return config
  weights = compute_weights(
    dataset.class_frequencies(), dataset.count_class_pixels, rule, power
  )
  balanced = ConfigDict(config)
  with balanced.unlocked():
    balanced.loss.class_weights = tuple(weights.tolist())
  return balanced


def _get_rule(name: str) -> Callable[[np.ndarray, float], np.ndarray]:
  if name not in RULES:
    raise ValueError(
      f'loss.balance_rule={name!r} is not one of {sorted(RULES)}'
    )
  return RULES[name]
