import numpy as np
import pytest

from deeplab.quantization.ptq import range_estimators

SEEN = [{'min': -1.0, 'max': 2.0}, {'min': -3.0, 'max': 1.0}]


def test_extremes():
  assert range_estimators.minmax_range(SEEN) == {'min': -3.0, 'max': 2.0}


def test_average_by_hand():
  three = [*SEEN, {'min': 0.0, 'max': 7.0}]
  found = range_estimators.moving_average_range(three, decay=0.6)
  # Means of one and two, then 0.6 of the old and 0.4 of the new.
  assert found['min'] == np.float32(0.6 * -2.0)
  assert found['max'] == pytest.approx(0.6 * 1.5 + 0.4 * 7.0)


def test_percentile_clips_the_tails():
  counts = np.array([1, 0, 9, 80, 9, 0, 0, 1])
  whole = {'min': -3.0, 'max': 5.0}
  # One of a hundred lies in each of the outermost bins.
  found = range_estimators.percentile_range(counts, whole, 99.0)
  assert found == {'min': -1.0, 'max': 2.0}
  assert range_estimators.percentile_range(counts, whole, 99.5) == whole
  found = range_estimators.percentile_range(counts, whole, 90.0)
  assert found == {'min': 0.0, 'max': 1.0}


def test_percentile_range_contains_zero():
  counts = np.array([0, 0, 0, 100])
  found = range_estimators.percentile_range(
    counts, {'min': 0.0, 'max': 4.0}, 99.0
  )
  assert found == {'min': 0.0, 'max': 4.0}


def test_mse_clips_an_outlier():
  rng = np.random.default_rng(0)
  values = np.append(np.abs(rng.normal(size=100_000)), 40.0)
  counts, _ = np.histogram(values, 2048, (0.0, 40.0))
  found = range_estimators.mse_range(counts, {'min': 0.0, 'max': 40.0})
  assert found['min'] == 0.0
  assert 8.0 <= found['max'] < 40.0  # 0.2 is the smallest share tried

  def error(high):
    steps = np.clip(np.rint(values / (high / 255)), 0, 255)
    return np.sum((steps * high / 255 - values) ** 2)

  tried = [error(share * 40.0) for share in np.linspace(0.2, 1.0, 50)]
  assert error(float(found['max'])) <= min(tried) * 1.05


def test_mse_keeps_a_range_without_outliers():
  counts = np.ones(2048, int)
  whole = {'min': -1.0, 'max': 1.0}
  assert range_estimators.mse_range(counts, whole) == whole
