"""Ranges of activations, from what a network was seen to hold.

All methods return {'min', 'max'} with 0 between them. Extremes waste the grid
on one pixel; the others cut what is rare.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np

Range = dict[str, Any]

METHODS = ('minmax', 'average', 'percentile', 'mse')
# Those that are computed from histograms.
FROM_HISTOGRAMS = ('percentile', 'mse')
# 'mse' tries so many sizes of the range, down to this share of the extremes.
_TRIALS, _SMALLEST = 100, 0.2


def extremes(seen: Iterable[Range]) -> Range:
  """Returns the smallest minimum and the largest maximum."""
  seen = list(seen)
  return {
    'min': np.float32(min(x['min'] for x in seen)),
    'max': np.float32(max(x['max'] for x in seen)),
  }


def average(seen: Sequence[Range], decay: float) -> Range:
  """Returns the moving average of the extremes, in the order of images.

  Young averages are means: the first is what it sees, the second the mean of
  two.
  """
  mean = {'min': 0.0, 'max': 0.0}
  for step, x in enumerate(seen):
    kept = min(decay, step / (step + 1))
    mean = {k: kept * v + (1 - kept) * float(x[k]) for k, v in mean.items()}
  return {k: np.float32(v) for k, v in mean.items()}


def _edges(whole: Range, bins: int) -> np.ndarray:
  return np.linspace(float(whole['min']), float(whole['max']), bins + 1)


def percentile(counts: np.ndarray, whole: Range, percent: float) -> Range:
  """Cuts both tails.

  Args:
    counts: histogram of equal bins within `whole`.
    whole: the extremes.
    percent: at least so many of the values lie below the new maximum, and
      as many above the new minimum.
  """
  share = np.cumsum(counts) / counts.sum()
  tail = 1 - percent / 100 + 1e-12
  edges = _edges(whole, len(counts))
  # The first bin that reaches beyond the tail, its outer edge.
  low = edges[np.searchsorted(share, tail, side='right')]
  high = edges[np.searchsorted(share, 1 - tail) + 1]
  return {'min': np.float32(min(low, 0)), 'max': np.float32(max(high, 0))}


def mse(counts: np.ndarray, whole: Range) -> Range:
  """Returns the range whose int8 grid has the least squared error.

  Args:
    counts: histogram of equal bins within `whole`.
    whole: the extremes; ranges that are tried are shares of it.
  """
  edges = _edges(whole, len(counts))
  values = (edges[1:] + edges[:-1]) / 2
  best, least = 1.0, np.inf
  for share in np.linspace(1.0, _SMALLEST, _TRIALS):
    low, high = share * float(whole['min']), share * float(whole['max'])
    scale = (high - low) / 255 or 1.0
    zero = np.rint(-128 - low / scale)
    steps = np.clip(np.rint(values / scale) + zero, -128, 127)
    error = np.sum(counts * ((steps - zero) * scale - values) ** 2)
    if error < least:
      best, least = share, error
  return {
    'min': np.float32(best * whole['min']),
    'max': np.float32(best * whole['max']),
  }
