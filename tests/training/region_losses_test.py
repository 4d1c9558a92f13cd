import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.training import region_losses
from tests import mmseg_module
from tests import torchvision_module
from tests.training import losses_test

IGNORE = losses_test.IGNORE


def _value(name, logits, labels, **fields):
  loss = losses_test.make(losses_test.term(name, **fields))
  return losses_test.value(loss, logits, labels)


def _probabilities(logits, labels):
  """Returns float64 [N, K] and labels [N] of the valid pixels."""
  z = np.asarray(logits, np.float64).reshape(-1, logits.shape[-1])
  z = np.exp(z - z.max(-1, keepdims=True))
  valid = labels.ravel() != IGNORE
  return (z / z.sum(-1, keepdims=True))[valid], labels.ravel()[valid]


def test_dice_by_hand():
  # Class 0: TP 3/4, found 1, labelled 1; class 1: TP 3/4, 1, 1; the third
  # pixel is void.
  logits = np.log([[[[3.0, 1.0], [1.0, 3.0], [1.0, 9.0]]]])
  labels = np.array([[[0, 1, IGNORE]]], np.uint8)
  assert _value('dice', logits, labels, smooth=0.0) == pytest.approx(0.25)
  assert _value('dice', logits, labels, smooth=1.0) == pytest.approx(
    1 - (1.5 + 1) / (2 + 1)
  )


def test_absent_classes_do_not_count():
  logits = np.log([[[[3.0, 1.0, 4.0]]]])
  labels = np.array([[[0]]], np.uint8)
  # TP 3/8, found 3/8, labelled 1.
  assert _value('dice', logits, labels, smooth=0.0) == pytest.approx(
    1 - 0.75 / 1.375
  )


@pytest.mark.parametrize(
  ('alpha', 'beta', 'gamma', 'smooth'),
  [(0.5, 0.5, 1.0, 0.0), (0.3, 0.7, 0.75, 0.0), (1.0, 1.0, 1.0, 2.0)],
)
def test_tversky_class_by_class(alpha, beta, gamma, smooth):
  logits, labels = losses_test.example()
  p, y = _probabilities(logits, labels)
  expected = []
  for k in range(4):
    hits = p[y == k, k].sum()
    wrong, missed = p[y != k, k].sum(), (1 - p[y == k, k]).sum()
    index = (hits + smooth) / (hits + alpha * wrong + beta * missed + smooth)
    expected.append((1 - index) ** gamma)
  ours = _value(
    'tversky',
    logits,
    labels,
    alpha=alpha,
    beta=beta,
    gamma=gamma,
    smooth=smooth,
  )
  assert ours == pytest.approx(np.mean(expected), rel=1e-5)


def test_lovasz_is_the_integral_of_the_jaccard_loss():
  """Over thresholds, of the set of pixels whose error reaches each."""
  logits, labels = losses_test.example()
  p, y = _probabilities(logits, labels)
  expected = []
  for k in range(4):
    truth = y == k
    errors = np.abs(truth - p[:, k])
    levels = np.concatenate([[0.0], np.sort(errors)])
    integral = 0.0
    for low, high in itertools.pairwise(levels):
      wrong = errors > low
      union = np.count_nonzero(truth | wrong)
      integral += (high - low) * np.count_nonzero(wrong) / union
    expected.append(integral)
  assert _value('lovasz', logits, labels) == pytest.approx(
    np.mean(expected), rel=1e-5
  )


def test_lovasz_of_a_certain_answer_is_one_minus_miou():
  labels = np.array([[[0, 0, 0, 1, 1, IGNORE]]], np.uint8)
  answer = np.array([[[0, 0, 1, 1, 2, 2]]])
  logits = np.where(np.arange(3) == answer[..., None], 1e3, 0.0)
  # IoU 2/3 and 1/3; class 2 is in no label.
  assert _value('lovasz', logits, labels) == pytest.approx(0.5, rel=1e-6)


def test_gradients_are_those_of_the_function():
  """Central differences, away from ties."""
  logits, labels = losses_test.example(size=(2, 2, 3), classes=3)
  for name in region_losses.REGION_TERMS:
    loss = losses_test.make(losses_test.term(name))
    gradient = jax.grad(
      lambda x, loss=loss: losses_test.both(loss, x, jnp.asarray(labels))[0]
    )(jnp.asarray(logits))
    direction = np.random.default_rng(3).standard_normal(logits.shape)
    step = 2e-3 * direction.astype(np.float32)
    slope = (
      losses_test.value(loss, logits + step, labels)
      - losses_test.value(loss, logits - step, labels)
    ) / 4e-3
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=0.02)


def test_lovasz_equals_mmsegmentation(monkeypatch):
  torch, _ = torchvision_module.load()
  mmseg = mmseg_module.load(monkeypatch)
  logits, labels = losses_test.example()
  loss = mmseg.losses.LovaszLoss(reduction='none')
  x = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
  expected = loss(x, torch.tensor(labels.astype(np.int64)), ignore_index=IGNORE)
  expected.backward()
  ours = losses_test.make(losses_test.term('lovasz'))
  value, gradient = jax.value_and_grad(
    lambda x: losses_test.both(ours, x, labels)[0]
  )(jnp.asarray(logits))
  np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
  np.testing.assert_allclose(
    gradient, x.grad.numpy().transpose(0, 2, 3, 1), atol=1e-7
  )
