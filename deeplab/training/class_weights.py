"""Class weights from the class frequencies of the training split."""

from collections.abc import Callable
import copy

from ml_collections import ConfigDict
import numpy as np

from deeplab.data import datasets
from deeplab.training import limits


def inverse_frequency(frequencies: np.ndarray, power: float) -> np.ndarray:
  """`share ** -power`, scaled so that the mean pixel has weight 1.

  Args:
    frequencies: [K] float64 share of each class of the labelled pixels.
    power: exponent; 0 weighs pixels alike, 1 weighs classes alike.
  """
  weights = frequencies**-power
  return weights / (weights * frequencies).sum()


def median_frequency(frequencies: np.ndarray, power: float) -> np.ndarray:
  """Median frequency balancing, to a power (Eigen and Fergus, 1411.4734).

  Args:
    frequencies: [K] float64 share of each class of the labelled pixels of the
      images that contain it.
    power: exponent of the weights.
  """
  return (np.median(frequencies) / frequencies) ** power


def inverse_log_frequency(frequencies: np.ndarray, power: float) -> np.ndarray:
  """ENet's `1 / log(1.02 + share)`, to a power (arXiv:1606.02147).

  Args:
    frequencies: [K] float64 share of each class of the labelled pixels.
    power: exponent of the weights.
  """
  return np.log(1.02 + frequencies) ** -power


# Rules by the name that `loss.balance_rule` uses.
RULES = {
  'inverse': inverse_frequency,
  'median': median_frequency,
  'log': inverse_log_frequency,
}


def class_presence_shares(counts: np.ndarray) -> np.ndarray:
  """Computes, for each class, the share of pixels in images that contain it.

  Args:
    counts: [N, K] labelled pixels of each image by class.

  Returns:
    [K] float64 share of all labelled pixels; 1 for a class of no image.
  """
  totals = counts.sum(axis=1)
  present = totals @ (counts > 0)
  return np.where(present > 0, present, totals.sum()) / totals.sum()


def compute_weights(
  shares: np.ndarray,
  counts: Callable[[], np.ndarray],
  rule: str,
  power: float,
) -> np.ndarray:
  """Computes class weights that are larger for rarer classes.

  Args:
    shares: [K] share of each class of the labelled pixels.
    counts: returns [N, K] labelled pixels of each image by class; called only
      for the rule 'median', since it reads the whole split.
    rule: a name in `RULES`.
    power: exponent of the rule; 0 weighs pixels alike.

  Returns:
    [K] float64, rounded to three digits; 0 for a class without pixels.

  Raises:
    ValueError: the rule is unknown.
  """
  weigh = _get_rule(rule)
  frequencies = (
    shares / class_presence_shares(counts()) if rule == 'median' else shares
  )
  present = shares > 0
  weights = np.zeros(len(shares))
  weights[present] = weigh(frequencies[present], power)
  return np.array([float(f'{weight:.3g}') for weight in weights])


def check_loss_config(loss: ConfigDict, num_classes: int) -> None:
  """Refuses settings of class weights that contradict each other.

  Args:
    loss: `config.loss`; reads `class_weights`, `balance` and `balance_rule`.
    num_classes: number of classes.

  Raises:
    ValueError: both weights and balance are given, there is not one weight for
      each class, or the rule is unknown.
  """
  _get_rule(loss.balance_rule)
  if loss.balance and loss.class_weights:
    raise ValueError(
      f'loss.balance={loss.balance} computes class weights, and '
      'loss.class_weights gives some already: set one of the two'
    )
  limits.check_class_weights(loss.class_weights, num_classes)


def balance_loss(config: ConfigDict, dataset: datasets.Dataset) -> ConfigDict:
  """Replaces `loss.balance` by the class weights of the training split.

  Args:
    config: the experiment.
    dataset: its data set.

  Returns:
    The config itself without `loss.balance`; else a copy with
    `loss.class_weights`.

  Raises:
    ValueError: settings contradict each other (`check_loss_config`), or no
      pixel of the training split is labelled.
  """
  check_loss_config(config.loss, dataset.info.num_classes)
  power, rule = config.loss.balance, config.loss.balance_rule
  if not power:
    return config
  weights = compute_weights(
    dataset.class_frequencies(), dataset.count_class_pixels, rule, power
  )
  balanced = copy.deepcopy(config)
  with balanced.unlocked():
    balanced.loss.class_weights = tuple(weights.tolist())
  return balanced


def _get_rule(name: str) -> Callable[[np.ndarray, float], np.ndarray]:
  if name not in RULES:
    raise ValueError(
      f'loss.balance_rule={name!r} is not one of {sorted(RULES)}'
    )
  return RULES[name]
