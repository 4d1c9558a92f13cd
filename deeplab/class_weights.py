"""Class weights from how often each class is seen in the training split."""

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


def balance(config: ConfigDict, info: data_info.DatasetInfo) -> ConfigDict:
  """Returns the config with the class weights that `loss.balance` asks for.

  Two decimals; a class without a pixel gets 0.

  Raises:
    ValueError: both weights and balance are given, or the rule is unknown.
  """
  power, rule = config.loss.balance, config.loss.balance_rule
  if rule not in RULES:
    raise ValueError(
      f'loss.balance_rule={rule!r} is not one of {sorted(RULES)}'
    )
  if not power:
    return config
  if config.loss.class_weights:
    raise ValueError(
      f'loss.balance={power} makes class weights, and loss.class_weights gives '
      'some already: set one of the two'
    )
  frequencies = pipeline.class_shares(config, info)
  there = frequencies > 0
  if rule == 'median':
    frequencies = frequencies / pipeline.class_presence(config, info)
  weights = np.zeros(len(frequencies))
  weights[there] = RULES[rule](frequencies[there], power)
  balanced = ConfigDict(config)
  with balanced.unlocked():
    balanced.loss.class_weights = tuple(np.round(weights, 2).tolist())
  return balanced
