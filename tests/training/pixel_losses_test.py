"""Terms over pixels, by hand and by sorting."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.losses_test import IGNORE
from tests.training.losses_test import example
from tests.training.losses_test import make
from tests.training.losses_test import term
from tests.training.losses_test import value


def test_focal_by_hand():
  # True probabilities 3/4 and 1/5.
  logits = jnp.log(jnp.array([[[[3.0, 1.0], [1.0, 4.0]]]]))
  labels = jnp.array([[[0, 0]]], jnp.uint8)
  expected = (0.25**2 * math.log(4 / 3) + 0.8**2 * math.log(5)) / 2
  loss = make(term('focal', gamma=2.0))
  np.testing.assert_allclose(value(loss, logits, labels), expected, rtol=1e-5)
  plain = make(term('focal', gamma=0.0))
  np.testing.assert_allclose(
    value(plain, logits, labels), value(make(), logits, labels), rtol=1e-6
  )


def test_sigmoid_cross_entropy_by_hand():
  logits = jnp.array([[[[2.0, -1.0]]]])
  labels = jnp.array([[[1]]], jnp.uint8)
  # log(1 + e^2) for the class that is wrong, log(1 + e^1) for the true one.
  expected = (2.126928 + 1.313262) / 2
  loss = make(term('sigmoid_cross_entropy'))
  np.testing.assert_allclose(value(loss, logits, labels), expected, rtol=1e-6)


def _ohem(logits, labels, threshold, min_kept, weights=None):
  """(sum, kept) by sorting, pixel by pixel."""
  pixels = []
  for row, label in zip(
    logits.reshape(-1, logits.shape[-1]).astype(np.float64),
    labels.ravel(),
    strict=True,
  ):
    if label != IGNORE:
      p = np.exp(row[label] - row.max()) / np.exp(row - row.max()).sum()
      weight = weights[label] if weights else 1.0
      pixels.append((p, -weight * np.log(p)))
  kept = round(len(labels) * min_kept)
  if threshold:
    pixels.sort()
    kept = max(kept, sum(p < threshold for p, _ in pixels))
  else:
    pixels.sort(key=lambda pixel: -pixel[1])
  chosen = pixels[:kept]
  return sum(loss for _, loss in chosen), len(chosen)


@pytest.mark.parametrize('threshold', [0.0, 0.05, 0.7])
@pytest.mark.parametrize('min_kept', [0, 3, 12, 1000])
def test_ohem_keeps_the_hard_pixels(threshold, min_kept):
  logits, labels = example()
  total, kept = _ohem(logits, labels, threshold, min_kept)
  for normalizer, count in (('valid', max(kept, 1)), ('all', labels.size)):
    loss = make(
      term('ohem', threshold=threshold, min_kept=min_kept),
      normalizer=normalizer,
    )
    np.testing.assert_allclose(
      value(loss, logits, labels), total / count, rtol=1e-5
    )


def test_ohem_ranks_weighted_losses():
  logits, labels = example()
  weights = (0.1, 1.0, 2.0, 5.0)
  total, _ = _ohem(logits, labels, 0.0, 3, weights)
  loss = make(
    term('ohem', threshold=0.0, min_kept=3),
    class_weights=weights,
    normalizer='all',
  )
  np.testing.assert_allclose(
    value(loss, logits, labels), total / labels.size, rtol=1e-5
  )


@pytest.mark.parametrize(
  ('step', 'ramp_steps', 'kept'),
  [(0, 0, 2), (7, 0, 2), (0, 10, 8), (4, 10, 5), (10, 10, 2), (99, 10, 2)],
)
def test_hardest_by_hand(step, ramp_steps, kept):
  """Losses of 0 to 6 times log 2, and a void pixel."""
  logits = np.zeros((1, 2, 4, 2), np.float32)
  # The true class has the probability 2 ** -i.
  logits[0, 0, :, 1] = [99.0, -99.0, 0.0, math.log(3)]
  logits[0, 1, :, 1] = [math.log(2**i - 1) for i in (3, 4, 5, 6)]
  labels = np.array([[[IGNORE, 0, 0, 0], [0, 0, 0, 0]]], np.uint8)
  loss = make(term('hardest', share=0.25, ramp_steps=ramp_steps))
  units = {2: (6 + 5) / 2, 5: (6 + 5 + 4 + 3 + 2) / 5, 8: 21 / 6}[kept]
  np.testing.assert_allclose(
    value(loss, logits, labels, step), units * math.log(2), rtol=1e-5
  )


@pytest.mark.parametrize('share', [0.1, 0.6, 1.0])
@pytest.mark.parametrize('weights', [(), (0.1, 1.0, 2.0, 5.0)])
def test_hardest_keeps_a_share_of_all_pixels(share, weights):
  logits, labels = example()
  count = int(share * labels.size)
  total, kept = _ohem(logits, labels, 0.0, count / len(labels), weights)
  assert kept == min(count, (labels != IGNORE).sum())
  for normalizer, divisor in (('valid', kept), ('all', labels.size)):
    loss = make(
      term('hardest', share=share, ramp_steps=0),
      class_weights=weights,
      normalizer=normalizer,
    )
    np.testing.assert_allclose(
      value(loss, logits, labels), total / divisor, rtol=1e-5
    )


@pytest.mark.parametrize(
  'fields',
  [
    {'share': 0.0, 'ramp_steps': 0},
    {'share': 1.5, 'ramp_steps': 0},
    {'share': 0.5, 'ramp_steps': -1},
  ],
)
def test_wrong_shares_are_refused(fields):
  with pytest.raises(
    ValueError, match=r'must lie in \(0, 1\] and ramp_steps=-?\d+ must be'
  ):
    value(make(term('hardest', **fields)), *example())
