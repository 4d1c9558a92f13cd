"""Activation range estimators.

All return {'min', 'max'} with 0 between them. Minimum and maximum are sensitive
to outliers, which widen the int8 steps for all other values; the percentile and
the MSE estimator clip them.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np

Range = dict[str, Any]

METHODS = ('minmax', 'average', 'percentile', 'mse')
# Methods that are computed from histograms.
HISTOGRAM_METHODS = ('percentile', 'mse')
# Candidates of 'mse': number of ranges, and smallest share of the extremes.
_NUM_TRIALS, _SMALLEST_SHARE = 100, 0.2


def minmax_range(observed: Iterable[Range]) -> Range:
  """Returns the smallest minimum and the largest maximum of several images."""
  observed = list(observed)
  return {
    'min': np.float32(min(x['min'] for x in observed)),
    'max': np.float32(max(x['max'] for x in observed)),
  }


def moving_average_range(observed: Sequence[Range], decay: float) -> Range:
  """Returns the moving average of the extremes, in the order of the images.

  The decay is warmed up: after n images it is at most (n - 1) / n, so that the
  average of the first images is their mean.

  Args:
    observed: extremes of each image.
    decay: share of the old average that an image keeps.
  """
  mean = {'min': 0.0, 'max': 0.0}
  for step, x in enumerate(observed):
    kept = min(decay, step / (step + 1))
    mean = {k: kept * v + (1 - kept) * float(x[k]) for k, v in mean.items()}
  return {k: np.float32(v) for k, v in mean.items()}


def _bin_edges(full_range: Range, bins: int) -> np.ndarray:
  return np.linspace(
    float(full_range['min']), float(full_range['max']), bins + 1
  )


def percentile_range(
  counts: np.ndarray, full_range: Range, percent: float
) -> Range:
  """Returns the range that clips both tails of the distribution.

  Args:
    counts: [N] histogram in equal bins within `full_range`.
    full_range: the extremes.
    percent: share of values in percent that lie below the new maximum, and
      above the new minimum, at least.
  """
  share = np.cumsum(counts) / counts.sum()
  tail = 1 - percent / 100 + 1e-12
  edges = _bin_edges(full_range, len(counts))
  # The outer edge of the first bin that reaches beyond the tail.
  low = edges[np.searchsorted(share, tail, side='right')]
  high = edges[np.searchsorted(share, 1 - tail) + 1]
  return {'min': np.float32(min(low, 0)), 'max': np.float32(max(high, 0))}


def mse_range(counts: np.ndarray, full_range: Range) -> Range:
  """Returns the range whose int8 rounding has the least squared error.

  Args:
    counts: [N] histogram in equal bins within `full_range`.
    full_range: the extremes. Candidates are these, times a share.
  """
  edges = _bin_edges(full_range, len(counts))
  values = (edges[1:] + edges[:-1]) / 2
  best, least = 1.0, np.inf
  for share in np.linspace(1.0, _SMALLEST_SHARE, _NUM_TRIALS):
    low, high = (
      share * float(full_range['min']),
      share * float(full_range['max']),
    )
    scale = (high - low) / 255 or 1.0
    zero_point = np.rint(-128 - low / scale)
    integers = np.clip(np.rint(values / scale) + zero_point, -128, 127)
    error = np.sum(counts * ((integers - zero_point) * scale - values) ** 2)
    if error < least:
      best, least = share, error
  return {
    'min': np.float32(best * full_range['min']),
    'max': np.float32(best * full_range['max']),
  }
