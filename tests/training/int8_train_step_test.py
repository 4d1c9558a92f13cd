"""Training in simulated int8: the pure step, on one device and on two."""

import functools

import jax
import numpy as np
import optax
import pytest

from deeplab import parallel
from deeplab.quantization import rules
from deeplab.training import checkpoints
from deeplab.training import losses
from deeplab.training import train_step
from tests import helpers
from tests.quantization import nets

providers = pytest.importorskip('deeplab.quantization.simulator.providers')

LOSS = losses.Loss(
  ignore=255, normalizer='valid', class_weights=(), auxiliary_weight=0.4
)
RULES = rules.Rules()


@functools.cache
def _stats():
  """Returns variables of TinyNet and the ranges of one batch."""
  net = helpers.TinyNet()
  images = helpers.batch(seed=9)['image']
  variables = jax.jit(net.init)(jax.random.key(1), images)
  found = nets.calibrated(
    net, RULES, variables, images, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
  )['quant_stats']
  # The steps below reuse the buffers that they are given.
  return jax.tree.map(np.asarray, variables), found


def _setup(axis_name=None, *, ema=False, observer=False, **kwargs):
  model = providers.simulate_int8(helpers.TinyNet(axis_name=axis_name), RULES)
  optimizer = optax.sgd(0.01)
  ranges = train_step.RangeTracking(0.75, 0, model if observer else None)
  step = train_step.TrainStep(
    model=model,
    optimizer=optimizer,
    axis_name=axis_name,
    **{
      'loss': LOSS,
      'seed': 7,
      'accumulate_steps': 1,
      'ema_decay': 0.9,
      'range_tracking': ranges,
      **kwargs,
    },
  )
  state = train_step.init_state(
    providers.simulate_int8(helpers.TinyNet(), RULES),
    optimizer,
    channels=3,
    seed=1,
    ema=ema,
  )
  variables, stats = _stats()
  return train_step.init_from_variables(
    state, {**variables, 'quant_stats': stats}, optimizer
  ), step


def _inputs(stats):
  """Returns the range of the image, which depends on no weight."""
  return {
    k: float(v)
    for k, v in stats['encoder']['conv']['conv_general_dilated0_lhs'].items()
  }


def _extremes(seed):
  image = helpers.batch(seed=seed)['image']
  return float(image.min()), float(image.max())


def test_calibration_uses_all_images():
  low, high = _extremes(9)
  assert _inputs(_stats()[1]) == {'min': low, 'max': high}


def test_ranges_are_moving_averages():
  state, step = _setup()
  after, _ = jax.jit(step)(state, helpers.batch(seed=0))
  for i, name in enumerate(('min', 'max')):
    old, new = _extremes(9)[i], _extremes(0)[i]
    expected = 0.75 * old + 0.25 * new
    assert _inputs(after.quant_stats)[name] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('observer', [False, True])
def test_two_devices_equal_one(observer):
  results = []
  for axis_name in (None, parallel.AXIS):
    state, step = _setup(axis_name, observer=observer)
    mapped = axis_name is not None
    step = parallel.map_train(step) if mapped else jax.jit(step)
    cut = parallel.split if mapped else lambda x: x
    for i in range(3):
      state, _ = step(state, cut(helpers.batch(seed=i)))
    results.append(state)
  one, two = results
  assert parallel.copies_differ(two) == []
  # The halves of these batches have other extremes than the whole.
  half = helpers.batch(seed=2)['image'][:4]
  assert (
    float(half.max()) != _extremes(2)[1] or float(half.min()) != _extremes(2)[0]
  )
  assert _inputs(two.quant_stats) == pytest.approx(
    _inputs(one.quant_stats), abs=1e-6
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2),
    one.quant_stats,
    two.quant_stats,
  )


def test_accumulation_observes_every_part():
  state, step = _setup(accumulate_steps=2)
  after, _ = jax.jit(step)(state, helpers.batch(seed=0))
  one, whole = _setup()
  once, _ = jax.jit(whole)(one, helpers.batch(seed=0))
  assert _inputs(after.quant_stats) == pytest.approx(
    _inputs(once.quant_stats), abs=1e-6
  )


def test_ranges_freeze_at_their_step():
  ranges = train_step.RangeTracking(0.75, 1)
  state, step = _setup(range_tracking=ranges)
  step = jax.jit(step)
  first, _ = step(state, helpers.batch(seed=0))
  second, _ = step(first, helpers.batch(seed=1))
  assert _inputs(first.quant_stats) != _inputs(state.quant_stats)
  jax.tree.map(
    np.testing.assert_array_equal, first.quant_stats, second.quant_stats
  )
  with pytest.raises(AssertionError):
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


def test_the_observer_runs_in_inference_mode():
  """On batch statistics logits have another range."""
  found = []
  for observer in (False, True):
    state, step = _setup(observer=observer)
    after, _ = jax.jit(step)(state, helpers.batch(seed=0))
    found.append(float(after.quant_stats['resize0']['max']))
  assert abs(found[0] - found[1]) > 0.05


def test_a_checkpoint_keeps_the_ranges(tmp_path):
  state, step = _setup(ema=True)
  state, _ = jax.jit(step)(state, helpers.batch(seed=0))
  saved = checkpoints.Checkpoints(
    str(tmp_path / 'c'), keep_latest=1, keep_best=1
  )
  saved.save(state, 1)
  saved.wait()
  fresh, _ = _setup(ema=True)
  restored = saved.restore(fresh)
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  saved.close()
  variables, _, _ = checkpoints.load_variables(str(tmp_path / 'c'), 'latest')
  jax.tree.map(
    np.testing.assert_array_equal, variables['quant_stats'], state.quant_stats
  )
  jax.tree.map(
    np.testing.assert_array_equal, variables['params'], state.ema['params']
  )
