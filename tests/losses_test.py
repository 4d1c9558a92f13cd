import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab import losses

IGNORE = 255


def _loss(**kwargs):
  fields = {
    'ignore': IGNORE,
    'normalizer': 'valid',
    'class_weights': (),
    'auxiliary_weight': 0.4,
  }
  return losses.Loss(**{**fields, **kwargs})


def _mean(loss, logits, labels, auxiliary=()):
  total, _ = loss.sum(logits, auxiliary, labels)
  return float(total / loss.count(labels))


def test_two_classes_by_hand():
  # log(1 + e^-2) = 0.126928, log(1 + e^1) = 1.313262, and a void pixel.
  logits = jnp.array([[[[2.0, 0.0], [1.0, 0.0], [9.0, 0.0]]]])
  labels = jnp.array([[[0, 1, IGNORE]]], jnp.uint8)
  total, main = _loss().sum(logits, (), labels)
  np.testing.assert_allclose(total, 0.126928 + 1.313262, rtol=1e-5)
  np.testing.assert_allclose(main, total)
  np.testing.assert_allclose(_mean(_loss(), logits, labels), 0.720095, 1e-5)
  mean_over_all = _mean(_loss(normalizer='all'), logits, labels)
  np.testing.assert_allclose(mean_over_all, 1.440190 / 3, rtol=1e-5)


def test_class_weights_and_their_normalizer():
  logits = jnp.array([[[[2.0, 0.0], [1.0, 0.0], [9.0, 0.0]]]])
  labels = jnp.array([[[0, 1, IGNORE]]], jnp.uint8)
  weighted = 0.5 * 0.126928 + 3.0 * 1.313262
  loss = _loss(class_weights=(0.5, 3.0), normalizer='weight')
  np.testing.assert_allclose(
    _mean(loss, logits, labels), weighted / 3.5, rtol=1e-5
  )
  loss = _loss(class_weights=(0.5, 3.0))
  np.testing.assert_allclose(
    _mean(loss, logits, labels), weighted / 2, rtol=1e-5
  )


def test_auxiliary_outputs_are_weighted():
  logits = jnp.zeros((1, 2, 2, 4))
  labels = jnp.zeros((1, 2, 2), jnp.uint8)
  # Uniform logits over four classes: log 4 a pixel, and 0.4 of it twice.
  total, main = _loss().sum(logits, (logits, logits), labels)
  np.testing.assert_allclose(main, 4 * 1.386294, rtol=1e-5)
  np.testing.assert_allclose(total, 1.8 * 4 * 1.386294, rtol=1e-5)


@pytest.mark.parametrize('normalizer', losses.NORMALIZERS)
def test_only_ignored_pixels_give_zero_loss_and_gradient(normalizer):
  loss = _loss(normalizer=normalizer, class_weights=(1.0, 2.0, 3.0))
  labels = jnp.full((1, 2, 2), IGNORE, jnp.uint8)

  def mean(logits):
    count = jnp.maximum(loss.count(labels), 1.0)
    return loss.sum(logits, (), labels)[0] / count

  value, grad = jax.value_and_grad(mean)(jnp.ones((1, 2, 2, 3)))
  assert float(value) == 0.0
  assert not np.any(np.asarray(grad))


def test_gradient_is_softmax_minus_one_hot():
  logits = jax.random.normal(jax.random.key(0), (1, 2, 3, 5))
  labels = np.array([[[0, 4, 2], [1, 3, IGNORE]]], np.uint8)
  grad = jax.grad(lambda x: _loss().sum(x, (), labels)[0])(logits)
  z = np.exp(np.asarray(logits, np.float64))
  expected = z / z.sum(-1, keepdims=True)
  for y in range(2):
    for x in range(3):
      if labels[0, y, x] == IGNORE:
        expected[0, y, x] = 0
      else:
        expected[0, y, x, labels[0, y, x]] -= 1
  np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_unknown_normalizer_is_refused():
  with pytest.raises(ValueError, match=r"'pixels' is not one of"):
    _loss(normalizer='pixels')
