import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from deeplab import parallel
from deeplab.training import losses
from tests import mmseg_module
from tests import torchvision_module

IGNORE = 255
# Parameters that differ from the defaults, some of which are for large images.
_FIELDS = {
  'ohem': {'threshold': 0.3, 'min_kept': 5},
  'hardest': {'share': 0.3},
  'tversky': {'gamma': 0.75, 'smooth': 0.0},
}


def _parameters(name):
  section = dict(common.default_config().loss.get(name, {}))
  section.pop('weight', None)
  return {**section, **_FIELDS.get(name, {})}


# Every term with its parameters.
TERMS = {name: _parameters(name) for name in losses.TERMS}

_NORMALIZED = [
  *((name, 'valid') for name in TERMS),
  *(
    (name, n)
    for name in ('focal', 'ohem', 'hardest')
    for n in ('all', 'weight')
  ),
]


def term(name, **fields):
  return losses.LossTerm(name, fields=fields or TERMS[name])


def make(*terms, **kwargs):
  fields = {
    'ignore': IGNORE,
    'normalizer': 'valid',
    'class_weights': (),
    'auxiliary_weight': 0.4,
  }
  if terms:
    fields['terms'] = terms
  return losses.Loss(**{**fields, **kwargs})


def both(loss, logits, labels, auxiliary=(), axis_name=None, step=0):
  count = loss.compute_normalizer(labels, axis_name)
  return loss.device_loss(
    logits, auxiliary, labels, count, axis_name, step=step
  )


def value(loss, logits, labels, step=0):
  return float(
    both(loss, jnp.asarray(logits), jnp.asarray(labels), step=step)[0]
  )


def example(seed=0, size=(4, 5, 6), classes=4):
  """Returns logits and labels with void pixels, most of them in one image."""
  rng = np.random.default_rng(seed)
  logits = 2 * rng.standard_normal((*size, classes), np.float32)
  labels = rng.integers(0, classes, size, np.uint8)
  labels[0, :3] = IGNORE
  labels[1, 0, 0] = IGNORE
  return logits, labels


def test_two_classes_by_hand():
  # log(1 + e^-2) = 0.126928, log(1 + e^1) = 1.313262, and a void pixel.
  logits = jnp.array([[[[2.0, 0.0], [1.0, 0.0], [9.0, 0.0]]]])
  labels = jnp.array([[[0, 1, IGNORE]]], jnp.uint8)
  total, main = both(make(), logits, labels)
  np.testing.assert_allclose(total, 0.720095, rtol=1e-5)
  np.testing.assert_allclose(main, total)
  mean_over_all = value(make(normalizer='all'), logits, labels)
  np.testing.assert_allclose(mean_over_all, 1.440190 / 3, rtol=1e-5)


def test_class_weights_and_their_normalizer():
  logits = jnp.array([[[[2.0, 0.0], [1.0, 0.0], [9.0, 0.0]]]])
  labels = jnp.array([[[0, 1, IGNORE]]], jnp.uint8)
  weighted = 0.5 * 0.126928 + 3.0 * 1.313262
  loss = make(class_weights=(0.5, 3.0), normalizer='weight')
  np.testing.assert_allclose(value(loss, logits, labels), weighted / 3.5, 1e-5)
  loss = make(class_weights=(0.5, 3.0))
  np.testing.assert_allclose(value(loss, logits, labels), weighted / 2, 1e-5)


def test_auxiliary_outputs_are_weighted_and_may_have_other_terms():
  logits = jnp.zeros((1, 2, 2, 4))
  labels = jnp.zeros((1, 2, 2), jnp.uint8)
  # Uniform logits over four classes: log 4, and 0.4 of it twice.
  total, main = both(make(), logits, labels, (logits, logits))
  np.testing.assert_allclose(main, 1.386294, rtol=1e-5)
  np.testing.assert_allclose(total, 1.8 * 1.386294, rtol=1e-5)
  # (1 - 1/4)^2 log 4 for the auxiliary one.
  loss = make(auxiliary_terms=(term('focal', gamma=2.0),))
  total, main = both(loss, logits, labels, (logits,))
  np.testing.assert_allclose(main, 1.386294, rtol=1e-5)
  np.testing.assert_allclose(total, (1 + 0.4 * 9 / 16) * 1.386294, rtol=1e-5)


def test_terms_are_a_weighted_sum():
  logits, labels = example()
  one, two = (value(make(term(n)), logits, labels) for n in ('focal', 'dice'))
  loss = make(
    losses.LossTerm('focal', 0.5, TERMS['focal']),
    losses.LossTerm('dice', 3.0, TERMS['dice']),
  )
  np.testing.assert_allclose(
    value(loss, logits, labels), 0.5 * one + 3 * two, rtol=1e-6
  )


def _with_gradient(loss, logits, labels, devices):
  """Returns value and gradient of the whole batch, split over devices."""

  def run(axis_name, logits, labels):
    share = lambda x: both(loss, x, labels, (x / 2,), axis_name)[0]
    return jax.value_and_grad(share)(logits)

  if devices == 1:
    return jax.jit(lambda *x: run(None, *x))(logits, labels)
  cut = parallel.split((logits, labels))
  shares, gradients = jax.pmap(
    lambda *x: run(parallel.AXIS, *x), axis_name=parallel.AXIS
  )(*cut)
  return shares.sum(), gradients.reshape(logits.shape)


@pytest.mark.parametrize(('name', 'normalizer'), _NORMALIZED)
def test_shares_of_devices_add_up_to_the_term(name, normalizer):
  loss = make(
    term(name), normalizer=normalizer, class_weights=(0.5, 1.0, 2.0, 3.0)
  )
  logits, labels = example()
  labels[2:][labels[2:] == 3] = 0  # one device lacks a class
  one = _with_gradient(loss, logits, labels, 1)
  two = _with_gradient(loss, logits, labels, 2)
  assert float(one[0]) > 0.01
  np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
  np.testing.assert_allclose(one[1], two[1], atol=1e-6)


@pytest.mark.parametrize(('name', 'normalizer'), _NORMALIZED)
def test_only_ignored_pixels_give_zero_loss_and_gradient(name, normalizer):
  loss = make(
    term(name), normalizer=normalizer, class_weights=(1.0, 2.0, 3.0, 4.0)
  )
  logits, labels = example()
  loss, grad = _with_gradient(loss, logits, np.full_like(labels, IGNORE), 1)
  assert float(loss) == 0.0
  assert not np.any(np.asarray(grad))


@pytest.mark.parametrize('scale', [0.0, 1e4, 1e30])
@pytest.mark.parametrize('name', TERMS)
def test_gradients_are_finite(name, scale):
  """One class only, right and wrong predictions, and huge logits."""
  rng = np.random.default_rng(1)
  sign = rng.choice([-1.0, 1.0], (2, 3, 4, 3)).astype(np.float32)
  fields = TERMS[name]
  if 'gamma' in fields:
    fields = {**fields, 'gamma': 0.5}
  loss = make(losses.LossTerm(name, 1.0, fields))
  run = jax.jit(jax.value_and_grad(lambda x, y: both(loss, x, y)[0]))
  for labels in (
    np.zeros((2, 3, 4), np.uint8),
    sign.argmax(-1).astype(np.uint8),
    sign.argmin(-1).astype(np.uint8),
  ):
    total, grad = run(scale * sign, labels)
    assert np.isfinite(total)
    assert np.isfinite(grad).all()


def test_gradient_is_softmax_minus_one_hot():
  logits = jax.random.normal(jax.random.key(0), (1, 2, 3, 5))
  labels = np.array([[[0, 4, 2], [1, 3, IGNORE]]], np.uint8)
  grad = jax.grad(lambda x: 5 * both(make(), x, labels)[0])(logits)
  z = np.exp(np.asarray(logits, np.float64))
  expected = z / z.sum(-1, keepdims=True)
  for y in range(2):
    for x in range(3):
      if labels[0, y, x] == IGNORE:
        expected[0, y, x] = 0
      else:
        expected[0, y, x, labels[0, y, x]] -= 1
  np.testing.assert_allclose(grad, expected, atol=1e-6)


@pytest.mark.parametrize('weights', [(), (0.5, 1.0, 2.0, 3.0)])
def test_cross_entropy_equals_torch(weights):
  torch, _ = torchvision_module.load()
  logits, labels = example()
  x = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
  expected = torch.nn.functional.cross_entropy(
    x,
    torch.tensor(labels.astype(np.int64)),
    weight=torch.tensor(weights) if weights else None,
    ignore_index=IGNORE,
  )
  expected.backward()
  loss = make(class_weights=weights, normalizer='weight')
  ours, gradient = jax.value_and_grad(lambda x: both(loss, x, labels)[0])(
    jnp.asarray(logits)
  )
  np.testing.assert_allclose(ours, expected.item(), rtol=1e-5)
  np.testing.assert_allclose(
    gradient, x.grad.numpy().transpose(0, 2, 3, 1), atol=1e-7
  )


@pytest.mark.parametrize(
  ('name', 'fields'),
  [
    ('cross_entropy', {}),
    ('ohem', {'threshold': 0.0, 'min_kept': 5}),
    ('ohem', {'threshold': 0.7, 'min_kept': 5}),
    ('ohem', {'threshold': 0.01, 'min_kept': 8}),
  ],
)
@pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore``')
def test_hard_pixels_equal_mmsegmentation(name, fields, monkeypatch):
  torch, _ = torchvision_module.load()
  mmseg = mmseg_module.load(monkeypatch)
  samplers = mmseg_module.load(monkeypatch, 'mmseg.structures.sampler')
  logits, labels = example()
  loss = mmseg.losses.CrossEntropyLoss()
  context = types.SimpleNamespace(ignore_index=IGNORE, loss_decode=loss)
  x = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
  y = torch.tensor(labels.astype(np.int64))
  weight = None
  if name == 'ohem':
    weight = samplers.OHEMPixelSampler(
      context,
      thresh=fields['threshold'] or None,
      min_kept=fields['min_kept'],
    ).sample(x, y[:, None])
  expected = loss(x, y, weight=weight, ignore_index=IGNORE)
  expected.backward()
  ours = make(losses.LossTerm(name, 1.0, fields), normalizer='all')
  total, gradient = jax.value_and_grad(lambda x: both(ours, x, labels)[0])(
    jnp.asarray(logits)
  )
  np.testing.assert_allclose(total, expected.item(), rtol=1e-5)
  np.testing.assert_allclose(
    gradient, x.grad.numpy().transpose(0, 2, 3, 1), atol=1e-7
  )


def test_built_from_the_config():
  config = common.default_config().loss
  config.terms = ('ohem', 'dice')
  config.auxiliary_terms = ('cross_entropy',)
  config.ohem.weight = 2.0
  config.class_weights = (1.0, 2.0)
  loss = losses.build_loss(config, 2, IGNORE)
  assert loss == make(
    losses.LossTerm('ohem', 2.0, {'threshold': 0.0, 'min_kept': 100_000}),
    losses.LossTerm('dice', 1.0, {'smooth': 1.0}),
    class_weights=(1.0, 2.0),
    auxiliary_terms=(losses.LossTerm('cross_entropy'),),
  )
  assert not loss.separable
  assert losses.build_loss(common.default_config().loss, 2, IGNORE) == make()
  assert make().separable


@pytest.mark.parametrize('name', TERMS)
def test_every_term_has_its_section_in_the_config(name):
  config = common.default_config().loss
  assert 'weight' in config[name]
  config.terms = (name,)
  logits, labels = example()
  assert value(losses.build_loss(config, 4, IGNORE), logits, labels) > 0


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'normalizer': 'pixels'}, r"'pixels' is not one of"),
    ({'terms': ('hinge',)}, r"loss term 'hinge' is not one of"),
    ({'terms': ()}, r'terms=\(\) leaves no loss'),
    ({'weighted_steps': 20}, 'weighted_steps=20.0 is not a share'),
    ({'class_weights': (1.0, 2.0)}, r'2 weights for 6 classes'),
  ],
)
def test_wrong_losses_are_refused(fields, message):
  config = common.default_config().loss
  config.update(fields)
  with pytest.raises(ValueError, match=message):
    losses.build_loss(config, 6, IGNORE)
