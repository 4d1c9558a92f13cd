import re

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from configs import common
from configs.recipes import slim
from deeplab import optimizers

PARAMS = {
  'encoder': {'stem': {'kernel': jnp.ones((2,)), 'bias': jnp.ones((2,))}},
  'head': {'kernel': jnp.ones((2,))},
}


def _schedule(name, **kwargs):
  config = common.base().schedule
  config.name = name
  config.update(kwargs)
  return optimizers.schedule(config, 0.1, 100)


def _optimizer(name, **kwargs):
  config = common.base().optimizer
  config.name = name
  config.update(kwargs)
  return optimizers.build(config, lambda _: jnp.float32(0.5))


def _one_update(optimizer, gradient=1.0, steps=1):
  params, state = PARAMS, optimizer.init(PARAMS)
  grads = {
    'encoder': {
      'stem': {
        'kernel': jnp.full((2,), gradient),
        'bias': jnp.full((2,), gradient),
      }
    },
    'head': {'kernel': jnp.full((2,), gradient)},
  }
  for _ in range(steps):
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_schedules_by_hand():
  poly = _schedule('poly', warmup_steps=0)
  np.testing.assert_allclose(poly(0), 0.1, rtol=1e-6)
  np.testing.assert_allclose(poly(50), 0.1 * 0.5**0.9, rtol=1e-6)
  np.testing.assert_allclose(poly(100), 0.0, atol=1e-9)
  end = _schedule(
    'poly', warmup_steps=0, poly=ConfigDict({'power': 1.0, 'end': 0.02})
  )
  np.testing.assert_allclose(end(25), 0.08, rtol=1e-6)
  cosine = _schedule('cosine', warmup_steps=0)
  np.testing.assert_allclose(cosine(50), 0.05, rtol=1e-6)
  step = _schedule('step', warmup_steps=0)
  rates = [float(step(t)) for t in (0, 59, 61, 81)]
  np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.001], rtol=1e-6)


def test_warmup_is_a_linear_factor():
  rate = _schedule('poly', warmup_steps=10)
  np.testing.assert_allclose(rate(0), 0.1 * 0.1, rtol=1e-6)
  np.testing.assert_allclose(rate(4), 0.1 * 0.96**0.9 * 0.5, rtol=1e-6)
  np.testing.assert_allclose(rate(10), 0.1 * 0.9**0.9, rtol=1e-6)


def test_sgd_decays_kernels_only_and_keeps_momentum():
  optimizer = _optimizer('sgd', weight_decay=0.2)
  params = _one_update(optimizer)
  # kernel: 1 - 0.5 * (1 + 0.2); bias: 1 - 0.5 * 1.
  np.testing.assert_allclose(params['head']['kernel'], 0.4, rtol=1e-6)
  np.testing.assert_allclose(params['encoder']['stem']['bias'], 0.5, 1e-6)
  # Second step, velocity 0.9 * 1 + 1 = 1.9: 0.5 - 0.5 * 1.9.
  params = _one_update(optimizer, steps=2)
  np.testing.assert_allclose(params['encoder']['stem']['bias'], -0.45, 1e-6)


def test_adamw_first_step_is_the_rate_plus_decay():
  params = _one_update(_optimizer('adamw', weight_decay=0.1), gradient=7.0)
  # 1 - 0.5 * (sign + 0.1 * 1) for kernels, 1 - 0.5 * sign for the bias.
  np.testing.assert_allclose(params['head']['kernel'], 0.45, rtol=1e-5)
  np.testing.assert_allclose(params['encoder']['stem']['bias'], 0.5, rtol=1e-5)


def test_encoder_multiplier_scales_the_encoder_alone():
  params = _one_update(
    _optimizer('sgd', weight_decay=0.0, encoder_multiplier=0.1)
  )
  np.testing.assert_allclose(params['encoder']['stem']['kernel'], 0.95, 1e-6)
  np.testing.assert_allclose(params['head']['kernel'], 0.5, rtol=1e-6)


def test_clipping_bounds_the_global_norm():
  params = _one_update(
    _optimizer('sgd', weight_decay=0.0, clip_norm=1.0), gradient=100.0
  )
  # Six equal components of a unit vector, times the rate 0.5.
  np.testing.assert_allclose(
    params['head']['kernel'], 1 - 0.5 / np.sqrt(6), rtol=1e-5
  )


def test_groups_hold_every_parameter_once():
  seen = {}

  def record(groups, state, params):
    seen.update(jax.tree.map(jnp.copy, groups))
    return groups, state

  inner = optax.GradientTransformation(lambda _: (), record)
  transform = optimizers.grouped(inner, lambda path: path.split('/')[-1])
  tree = {
    'a': {'kernel': jnp.arange(6.0).reshape(2, 3), 'bias': jnp.array([6.0])},
    'b': {'kernel': jnp.array([[7.0]])},
  }
  updates, _ = transform.update(tree, transform.init(tree), tree)
  np.testing.assert_array_equal(seen['kernel'], [0, 1, 2, 3, 4, 5, 7])
  np.testing.assert_array_equal(seen['bias'], [6])
  jax.tree.map(np.testing.assert_array_equal, updates, tree)


def test_decay_masks_that_do_nothing_are_refused():
  # A mask must match the whole path.
  optimizer = _optimizer('sgd', weight_decay=0.2, decay_mask='kernel')
  with pytest.raises(ValueError, match=r"decay_mask='kernel' matches no"):
    optimizer.init(PARAMS)
  _optimizer('sgd', weight_decay=0.0, decay_mask='kernel').init(PARAMS)
  with pytest.raises(ValueError, match=r'is no regular expression'):
    _optimizer('sgd', decay_mask='*/kernel')


def test_voc_leaves_depthwise_kernels_alone():
  """As TF-slim's argument scopes do."""
  config = common.base()
  slim.voc(config)
  decayed = re.compile(config.optimizer.decay_mask)
  paths = [
    'encoder/block_1/expand/conv/kernel',
    'encoder/block_1/depthwise/conv/kernel',
    'head/aspp/atrous0/depthwise/conv/kernel',
    'head/aspp/atrous0/pointwise/conv/kernel',
    'head/classifier/kernel',
    'head/classifier/bias',
    'encoder/stem/norm/bn/scale',
  ]
  assert [p for p in paths if decayed.fullmatch(p)] == [
    paths[0],
    *paths[3:5],
  ]


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match=r"schedule.name='plateau'"):
    _schedule('plateau')
  with pytest.raises(ValueError, match=r"optimizer.name='lion'"):
    _optimizer('lion')
