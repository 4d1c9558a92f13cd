"""Class weights from how often each class is seen in the training split."""

from collections.abc import Callable

from ml_collections import ConfigDict
import numpy as np

from deeplab.data import info as data_info
from deeplab.data import pipeline


def inverse(frequencies: np.ndarray, power: float) -> np.ndarray:
  """`share ** -power`, 1 for the mean pixel."""
  weights = frequencies**-power
  return weights / (weights * frequencies).sum()


def median(frequencies: np.ndarray, power: float) -> np.ndarray:
  """Median frequency balancing, to a power (Eigen and Fergus, 1411.4734).

  A class's frequency is its share of the labelled pixels of the images that
  have it.
  """
  return (np.median(frequencies) / frequencies) ** power


def log(frequencies: np.ndarray, power: float) -> np.ndarray:
  """ENet's `1 / log(1.02 + share)`, to a power (arXiv:1606.02147)."""
  return np.log(1.02 + frequencies) ** -power


RULES = {'inverse': inverse, 'median': median, 'log': log}


def weigh(frequencies: np.ndarray, rule: str, power: float) -> np.ndarray:
  """Returns weights that lift rare classes.

  Args:
    frequencies: [K] how often each class is seen, as the rule counts it.
    rule: a name in RULES.
    power: of the rule; 0 counts pixels alike.

  Returns:
    [K] float64 of three digits; 0 for a class without a pixel.

  Raises:
    ValueError: the rule is unknown.
  """
  make = _rule(rule)
  there = frequencies > 0
  weights = np.zeros(len(frequencies))
  weights[there] = make(frequencies[there], power)
  return np.array([float(f'{weight:.3g}') for weight in weights])


def balance(config: ConfigDict, info: data_info.DatasetInfo) -> ConfigDict:
  """Returns the config with the class weights that `loss.balance` asks for.

  Raises:
    ValueError: both weights and balance are given, or the rule is unknown.
  """
  power, rule = config.loss.balance, config.loss.balance_rule
  _rule(rule)
  if not power:
    return config
  if config.loss.class_weights:
    raise ValueError(
      f'loss.balance={power} makes class weights, and loss.class_weights gives '
      'some already: set one of the two'
    )
  frequencies = pipeline.class_shares(config, info)
  if rule == 'median':
    frequencies = frequencies / pipeline.class_presence(config, info)
  weights = weigh(frequencies, rule, power)
  balanced = ConfigDict(config)
  with balanced.unlocked():
    balanced.loss.class_weights = tuple(weights.tolist())
  return balanced


def _rule(name: str) -> Callable[[np.ndarray, float], np.ndarray]:
  if name not in RULES:
    raise ValueError(
      f'loss.balance_rule={name!r} is not one of {sorted(RULES)}'
    )
  return RULES[name]
