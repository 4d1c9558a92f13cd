import re

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from configs import common
from configs.recipes import slim
from deeplab.training import optimizers
from tests import mmseg_module
from tests import torchvision_module

PARAMS = {
  'encoder': {'stem': {'kernel': jnp.ones((2,)), 'bias': jnp.ones((2,))}},
  'head': {'kernel': jnp.ones((2,))},
}


def _schedule(name, total=100, **kwargs):
  config = common.default_config().schedule
  config.name = name
  config.update(kwargs)
  return optimizers.build_schedule(config, 0.1, total, config.warmup_steps)


def _optimizer(name, **kwargs):
  config = common.default_config().optimizer
  config.name = name
  config.update(kwargs)
  return optimizers.build_optimizer(config, lambda _: jnp.float32(0.5))


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
  np.testing.assert_allclose(cosine(100), 0.0, atol=1e-9)
  floor = _schedule('cosine', warmup_steps=0, cosine=ConfigDict({'end': 0.02}))
  np.testing.assert_allclose(floor(50), 0.06, rtol=1e-6)
  np.testing.assert_allclose([floor(100), floor(150)], 0.02, rtol=1e-6)
  step = _schedule('step', warmup_steps=0)
  rates = [float(step(t)) for t in (59, 60, 79, 80)]
  np.testing.assert_allclose(rates, [0.1, 0.01, 0.01, 0.001], rtol=1e-6)
  rates = [float(step(t)) for t in (0, 59, 61, 81)]
  np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.001], rtol=1e-6)


def test_warmup_is_a_linear_factor():
  rate = _schedule('poly', warmup_steps=10)
  np.testing.assert_allclose(rate(0), 0.1 * 0.1, rtol=1e-6)
  np.testing.assert_allclose(rate(4), 0.1 * 0.96**0.9 * 0.5, rtol=1e-6)
  np.testing.assert_allclose(rate(10), 0.1 * 0.9**0.9, rtol=1e-6)


def test_other_forms_of_warmup_by_hand():
  rate = _schedule('poly', warmup_steps=10, warmup_start=0.2)
  np.testing.assert_allclose(rate(0), 0.1 * 0.2, rtol=1e-6)
  np.testing.assert_allclose(rate(5), 0.1 * 0.95**0.9 * 0.6, rtol=1e-6)
  rate = _schedule(
    'cosine', warmup_steps=10, warmup='constant', warmup_start=0.1
  )
  np.testing.assert_allclose(rate(0), 0.01, rtol=1e-6)
  np.testing.assert_allclose(rate(9), 0.01 * (1 + np.cos(0.09 * np.pi)) / 2)
  np.testing.assert_allclose(rate(50), 0.05, rtol=1e-6)


def test_the_schedule_may_begin_after_the_warmup():
  """PaddleSeg: 1e-5 to 0.005 in 1000 steps, then poly over the others."""
  config = common.default_config().schedule
  config.update(
    {'warmup_steps': 1000, 'warmup_start': 1e-5 / 0.005, 'warmup_first': True}
  )
  rate = optimizers.build_schedule(config, 0.005, 80_000, 1000)
  np.testing.assert_allclose(rate(0), 1e-5, rtol=1e-5)
  np.testing.assert_allclose(rate(500), (1e-5 + 0.005) / 2, rtol=1e-5)
  np.testing.assert_allclose(rate(1000), 0.005, rtol=1e-6)
  np.testing.assert_allclose(rate(40_500), 0.005 * 0.5**0.9, rtol=1e-5)
  np.testing.assert_allclose(rate(80_000), 0.0, atol=1e-9)


def test_warmup_in_epochs_is_a_share_of_the_run():
  config = common.default_config()
  config.epochs, config.schedule.warmup_steps = 250.0, 0
  config.schedule.warmup_epochs = 5.0
  assert optimizers.warmup_steps(config, 61_750) == 1235
  config.total_steps = 500
  with pytest.raises(ValueError, match=r'warmup_epochs=5.0 needs a run whose'):
    optimizers.warmup_steps(config, 500)


def test_one_cycle_by_hand():
  """The rate rises to step 29 of 100 and falls to step 99."""
  cycle = ConfigDict({'rise': 0.3, 'start': 0.04, 'end': 0.001})
  rate = _schedule('one_cycle', warmup_steps=0, one_cycle=cycle)
  rates = [float(rate(t)) for t in (0, 14.5, 29, 64, 99, 100)]
  expected = [0.004, 0.052, 0.1, 0.05005, 0.0001, 0.0001]
  np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_one_cycle_equals_torch():
  torch, _ = torchvision_module.load()
  optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
  scheduler = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, max_lr=0.1, total_steps=50
  )
  expected = []
  for _ in range(50):
    expected.append(scheduler.get_last_lr()[0])
    optimizer.step()
    if len(expected) < 50:
      scheduler.step()
  rate = _schedule('one_cycle', 50, warmup_steps=0)
  ours = [float(rate(t)) for t in range(50)]
  np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-8)


def test_poly_equals_mmengine(monkeypatch):
  """mmengine reaches the lowest rate at the last step, ours one later."""
  torch, _ = torchvision_module.load()
  mmengine = mmseg_module.load(monkeypatch, 'mmengine.optim')
  optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
  scheduler = mmengine.PolyLR(
    optimizer, power=0.9, eta_min=1e-4, begin=0, end=100, by_epoch=False
  )
  poly = ConfigDict({'power': 0.9, 'end': 1e-4})
  rate = _schedule('poly', 99, warmup_steps=0, poly=poly)
  for t in range(100):
    expected = optimizer.param_groups[0]['lr']
    np.testing.assert_allclose(rate(t), expected, rtol=1e-4)
    optimizer.step()
    scheduler.step()


def test_sgd_decays_kernels_only_and_keeps_momentum():
  optimizer = _optimizer('sgd', weight_decay=0.2)
  params = _one_update(optimizer)
  # kernel: 1 - 0.5 * (1 + 0.2); bias: 1 - 0.5 * 1.
  np.testing.assert_allclose(params['head']['kernel'], 0.4, rtol=1e-6)
  np.testing.assert_allclose(params['encoder']['stem']['bias'], 0.5, 1e-6)
  # Second step, velocity 0.9 * 1 + 1 = 1.9: 0.5 - 0.5 * 1.9. The decay is in
  # the velocity: 0.9 * 1.2 + 1 + 0.2 * 0.4 = 2.16, and 0.4 - 0.5 * 2.16.
  params = _one_update(optimizer, steps=2)
  np.testing.assert_allclose(params['head']['kernel'], -0.68, rtol=1e-6)
  np.testing.assert_allclose(params['encoder']['stem']['bias'], -0.45, 1e-6)


def test_adamw_first_step_is_the_rate_plus_decay():
  params = _one_update(_optimizer('adamw', weight_decay=0.1), gradient=7.0)
  # 1 - 0.5 * (sign + 0.1 * 1) for kernels, 1 - 0.5 * sign for the bias.
  np.testing.assert_allclose(params['head']['kernel'], 0.45, rtol=1e-5)
  np.testing.assert_allclose(params['encoder']['stem']['bias'], 0.5, rtol=1e-5)


def test_nesterov_by_hand():
  optimizer = _optimizer('sgd', weight_decay=0.0, sgd={'nesterov': True})
  # 1 - 0.5 * (1 + 0.9), then velocity 1.9: - 0.5 * (1 + 0.9 * 1.9).
  params = _one_update(optimizer)
  np.testing.assert_allclose(params['head']['kernel'], 0.05, rtol=1e-5)
  params = _one_update(optimizer, steps=2)
  np.testing.assert_allclose(params['head']['kernel'], -1.305, rtol=1e-5)


def test_adam_s_decay_is_part_of_the_gradient():
  # A gradient of -1 and a decay of 2: the step has the sign of the decay.
  params = _one_update(_optimizer('adam', weight_decay=2.0), gradient=1.0)
  stem = params['encoder']['stem']
  np.testing.assert_allclose(stem['bias'], 0.5, rtol=1e-5)
  np.testing.assert_allclose(params['head']['kernel'], 0.5, rtol=1e-5)
  params = _one_update(_optimizer('adam', weight_decay=2.0), gradient=-1.0)
  np.testing.assert_allclose(params['encoder']['stem']['bias'], 1.5, rtol=1e-5)
  np.testing.assert_allclose(params['head']['kernel'], 0.5, rtol=1e-5)


@pytest.mark.parametrize('name', ['sgd', 'nesterov', 'adam', 'adamw'])
def test_optimizers_equal_torch(name):
  torch, _ = torchvision_module.load()
  ours = {
    'sgd': ('sgd', {}),
    'nesterov': ('sgd', {'sgd': {'nesterov': True}}),
  }.get(name, (name, {}))
  optimizer = _optimizer(ours[0], weight_decay=0.1, decay_mask='.*', **ours[1])
  params = {'head': {'kernel': jnp.array([1.0, -2.0, 0.5])}}
  state = optimizer.init(params)
  x = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
  fields = {'lr': 0.5, 'weight_decay': 0.1}
  theirs = {
    'sgd': lambda: torch.optim.SGD([x], momentum=0.9, **fields),
    'nesterov': lambda: torch.optim.SGD(
      [x], momentum=0.9, nesterov=True, **fields
    ),
    'adam': lambda: torch.optim.Adam([x], **fields),
    'adamw': lambda: torch.optim.AdamW([x], **fields),
  }[name]()
  for i in range(5):
    gradient = np.array([1.0, 0.5, -1.0], np.float32) * (i - 1.5)
    updates, state = optimizer.update(
      {'head': {'kernel': jnp.asarray(gradient)}}, state, params
    )
    params = optax.apply_updates(params, updates)
    x.grad = torch.tensor(gradient)
    theirs.step()
  np.testing.assert_allclose(
    params['head']['kernel'], x.detach().numpy(), rtol=2e-5
  )


def test_multipliers_by_path():
  tree = {
    'encoder': {
      'conv': {'kernel': jnp.ones(1), 'bias': jnp.ones(1)},
      'norm': {'bn': {'bias': jnp.ones(1)}},
    },
    'head': {'kernel': jnp.ones(1), 'bias': jnp.ones(1)},
    'auxiliary': {'kernel': jnp.ones(1)},
  }
  optimizer = _optimizer(
    'sgd',
    weight_decay=0.0,
    encoder_multiplier=0.1,
    head_multiplier=10.0,
    auxiliary_multiplier=3.0,
    bias_multiplier=2.0,
  )
  updates, _ = optimizer.update(tree, optimizer.init(tree), tree)
  found = {
    path: float(-2 * update[0])
    for path, update in zip(
      jax.tree.leaves(optimizers.parameter_paths(tree)),
      jax.tree.leaves(updates),
      strict=True,
    )
  }
  assert found == pytest.approx(
    {
      'encoder/conv/kernel': 0.1,
      'encoder/conv/bias': 0.2,
      'encoder/norm/bn/bias': 0.1,
      'auxiliary/kernel': 3.0,
      'head/kernel': 10.0,
      'head/bias': 20.0,
    }
  )


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
  transform = optimizers.flatten_by_label(
    inner, lambda path: path.split('/')[-1]
  )
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
  with pytest.raises(ValueError, match=r'is not a regular expression'):
    _optimizer('sgd', decay_mask='*/kernel')


def test_voc_leaves_depthwise_kernels_alone():
  """The config decays the kernels that TF-slim's argument scopes decay."""
  config = common.default_config()
  slim.set_training(config, steps=1, crop=(513, 513), canvas=(513, 513))
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
  with pytest.raises(ValueError, match=r"schedule.name='linear'"):
    _schedule('linear')
  with pytest.raises(ValueError, match=r"schedule.warmup='cubic'"):
    _schedule('poly', warmup='cubic')
  with pytest.raises(ValueError, match=r"optimizer.name='lion'"):
    _optimizer('lion')
