import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from configs import shapes_mnv2
from deeplab import parallel
from deeplab import train
from deeplab.models import segmenter
from deeplab.training import losses
from deeplab.training import train_step
from tests import helpers

LOSS = losses.Loss(
  ignore=255, normalizer='valid', class_weights=(), auxiliary_weight=0.4
)


def _setup(axis_name=None, optimizer=None, *, ema=False, **kwargs):
  model = helpers.TinyNet(axis_name=axis_name)
  optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
  fields = {
    'loss': LOSS,
    'seed': 7,
    'ema_decay': 0.99,
    **kwargs,
  }
  step = train_step.TrainStep(
    model=model, optimizer=optimizer, axis_name=axis_name, **fields
  )
  state = train_step.init_state(
    helpers.TinyNet(), optimizer, channels=3, seed=1, ema=ema
  )
  return state, step


def _run(state, step, count, *, mapped):
  step = parallel.map_train(step) if mapped else jax.jit(step)
  cut = parallel.split if mapped else lambda x: x
  metrics = None
  for i in range(count):
    state, metrics = step(state, cut(helpers.batch(seed=i)))
  return state, metrics


def _assert_close(a, b, atol):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=0), a, b
  )


def test_two_devices_equal_one_for_sgd():
  one, _ = _run(*_setup(), 5, mapped=False)
  two, _ = _run(*_setup(parallel.AXIS), 5, mapped=True)
  _assert_close(one.params, two.params, 1e-5)
  _assert_close(one.batch_stats, two.batch_stats, 1e-5)
  assert parallel.copies_differ(two) == []


def test_two_devices_equal_one_in_loss_for_adamw():
  adamw = optax.adamw(1e-2)
  _, one = _run(*_setup(optimizer=adamw), 5, mapped=False)
  _, two = _run(*_setup(parallel.AXIS, adamw), 5, mapped=True)
  np.testing.assert_allclose(one['loss'], two['loss'][0], atol=1e-4)
  np.testing.assert_array_equal(two['loss'][0], two['loss'][1])


@pytest.mark.parametrize('accumulate_steps', [1, 2])
def test_losses_get_the_step(accumulate_steps):
  """The share of hard pixels falls from all to a fifth in ten steps."""

  def first_loss(done, **fields):
    term = losses.LossTerm('hardest', 1.0, {'share': 0.2, **fields})
    state, step = _setup(
      loss=dataclasses.replace(LOSS, terms=(term,)),
      accumulate_steps=accumulate_steps,
    )
    state = dataclasses.replace(state, step=jnp.int32(done))
    return float(_run(state, step, 1, mapped=False)[1]['loss'])

  ramp = [first_loss(done, ramp_steps=10) for done in (0, 8, 10, 20)]
  _, metrics = _run(*_setup(accumulate_steps=accumulate_steps), 1, mapped=False)
  assert ramp[0] == pytest.approx(float(metrics['loss']), rel=1e-5)
  assert ramp[0] * 1.02 < ramp[1] < ramp[2] / 1.02
  assert ramp[2] == ramp[3] == first_loss(0, ramp_steps=0)


def _network(axis_name, kernels, optimizer):
  """Returns (state, step) of a small network, built as a run builds it."""
  config = shapes_mnv2.get_config('smoke').unlock()
  config.model.depthwise, config.model.pointwise = kernels
  config.optimizer.name = optimizer
  # In a deep network rounding errors grow from step to step, faster with a
  # higher rate: reordering the images of a batch has the same effect.
  config.optimizer.learning_rate = {'sgd': 3e-5, 'adamw': 1e-5}[optimizer]
  config.schedule.warmup_steps = 0
  config.batch_size = 8
  config.ema_decay = 0.9
  config.model.auxiliary = ConfigDict({'name': 'fcn', 'channels': 8})
  step, _ = train.build_train_step(helpers.network(config, 3), 10, axis_name)
  return train_step.init_state(
    step.model, step.optimizer, channels=3, seed=1, ema=True
  ), step


@pytest.mark.parametrize(
  ('optimizer', 'kernels'),
  [
    ('sgd', ('shifted', 'matmul')),
    pytest.param('adamw', ('conv', 'conv'), marks=pytest.mark.full),
  ],
)
def test_two_devices_equal_one_for_a_network(optimizer, kernels):
  results = []
  for axis_name in (None, parallel.AXIS):
    state, step = _network(axis_name, kernels, optimizer)
    mapped = axis_name is not None
    run = parallel.map_train(step) if mapped else jax.jit(step)
    cut = parallel.split if mapped else lambda x: x
    for i in range(5):
      batch = helpers.batch(height=65, width=65, seed=i)
      state, metrics = run(state, cut(batch))
    results.append((state, np.ravel(metrics['loss'])[0]))
  (one, loss), (two, loss_of_two) = results
  np.testing.assert_allclose(loss, loss_of_two, atol=1e-4)
  if optimizer == 'sgd':
    _assert_close(one.params, two.params, 1e-5)
    _assert_close(one.ema['params'], two.ema['params'], 1e-5)
  assert parallel.copies_differ(two) == []


class _Frozen(helpers.TinyNet):
  """BatchNorm uses its running statistics, so parts are independent."""

  def __call__(self, images, train=False, dropout_keys=None):
    del train, dropout_keys
    output = helpers.TinyNet.__call__(self, images, train=False)
    return segmenter.SegmenterOutput(output.logits, (2 * output.logits,))


@pytest.mark.parametrize(
  'terms',
  [
    (losses.LossTerm('cross_entropy'),),
    (
      losses.LossTerm('ohem', 1.0, {'threshold': 0.3, 'min_kept': 5}),
      losses.LossTerm('lovasz'),
      losses.LossTerm('dice', 0.5, {'smooth': 1.0}),
    ),
  ],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(terms):
  loss = dataclasses.replace(LOSS, terms=terms)
  results = []
  for accumulate_steps, axis_name in ((1, None), (4, None), (2, parallel.AXIS)):
    state, step = _setup(
      axis_name, loss=loss, accumulate_steps=accumulate_steps
    )
    mapped = axis_name is not None
    step = dataclasses.replace(step, model=_Frozen())
    step = parallel.map_train(step) if mapped else jax.jit(step)
    batch = helpers.batch()
    state, metrics = step(state, parallel.split(batch) if mapped else batch)
    values = {k: np.ravel(metrics[k])[0] for k in ('loss', 'main_loss')}
    results.append((state.params, values))
  for params, values in results[1:]:
    _assert_close(results[0][0], params, 1e-6)
    _assert_close(results[0][1], values, 1e-6)
  assert results[0][1]['loss'] > results[0][1]['main_loss'] > 0.1


def test_the_second_forward_pass_repeats_the_first():
  """A loss that keeps all pixels gives the gradients of cross entropy."""
  all_pixels = losses.LossTerm(
    'ohem', 1.0, {'threshold': 0.0, 'min_kept': 10_000}
  )
  results = []
  for loss in (LOSS, dataclasses.replace(LOSS, terms=(all_pixels,))):
    state, step = _setup(parallel.AXIS, loss=loss, accumulate_steps=2)
    state, metrics = _run(state, step, 2, mapped=True)
    results.append((state.params, state.batch_stats, metrics['loss'][0]))
  assert LOSS.separable and not loss.separable
  _assert_close(*results, 1e-6)


def test_a_rate_scale_is_another_rate():
  """As in PyTorch, the momentum does not contain the rate."""
  results = []
  for rates, scales in (
    ((0.1, 0.1), (1.0, 0.25)),
    ((0.1, 0.025), (None, None)),
  ):
    schedule = lambda t, rates=rates: jnp.where(t < 1, *rates)
    state, step = _setup(optimizer=optax.sgd(schedule, momentum=0.9))
    step = jax.jit(step)
    for i, scale in enumerate(scales):
      scale = None if scale is None else jnp.float32(scale)
      state = dataclasses.replace(state, rate_scale=scale)
      state, _ = step(state, helpers.batch(seed=i))
    results.append(state.params)
  _assert_close(*results, 1e-7)


def test_dropout_depends_on_the_example_not_its_position():
  keys = train_step.dropout_keys(3, jnp.array([5, 9], jnp.uint32))
  swapped = train_step.dropout_keys(3, jnp.array([9, 5], jnp.uint32))
  data = jax.random.key_data
  np.testing.assert_array_equal(data(keys)[0], data(swapped)[1])
  assert np.any(data(keys)[0] != data(keys)[1])
  other = train_step.dropout_keys(4, jnp.array([5], jnp.uint32))
  assert np.any(data(keys)[0] != data(other)[0])


def test_first_nonfinite_step_is_kept():
  state, step = _setup()
  step = jax.jit(step)
  good, bad = helpers.batch(), helpers.batch()
  bad['image'] = bad['image'].at[0, 0, 0, 0].set(jnp.nan)
  state, _ = step(state, good)
  assert int(state.nonfinite_step) == -1
  state, _ = step(state, bad)
  state, _ = step(state, good)
  assert int(state.nonfinite_step) == 2
  assert int(state.step) == 3


def test_a_batch_of_ignored_pixels_changes_no_parameter():
  state, step = _setup(optimizer=optax.sgd(0.1))
  batch = helpers.batch()
  batch['label'] = jnp.full_like(batch['label'], 255)
  after, metrics = jax.jit(step)(state, batch)
  assert float(metrics['loss']) == 0.0
  _assert_close(state.params, after.params, 0.0)


def test_only_ratios_of_class_weights_matter():
  """Under 'weight' only their ratios matter, even if their sum is below 1."""
  results = []
  for scale in (1.0, 1e-6):
    loss = losses.Loss(
      ignore=255,
      normalizer='weight',
      class_weights=(scale, 2 * scale, 3 * scale),
      auxiliary_weight=0.4,
    )
    state, step = _setup(loss=loss)
    results.append(float(jax.jit(step)(state, helpers.batch())[1]['loss']))
  np.testing.assert_allclose(*results, rtol=1e-5)


def test_class_weights_may_hold_in_some_steps():
  def losses_of(weights, share, numbers):
    loss = losses.Loss(
      ignore=255,
      normalizer='all',
      class_weights=weights,
      auxiliary_weight=0.4,
      weighted_steps=share,
    )
    state, step = _setup(loss=loss)
    step = jax.jit(step)
    for i in numbers:
      at = dataclasses.replace(state, step=jnp.int32(i))
      yield float(step(at, helpers.batch())[1]['loss'])

  weights = (0.5, 4.0, 9.0)
  seen = list(losses_of(weights, 0.2, range(30)))
  (plain,) = losses_of((), 1.0, [0])
  (weighted,) = losses_of(weights, 1.0, [0])
  assert sorted(set(seen)) == pytest.approx([plain, weighted], rel=1e-6)
  # Of 30 steps at 0.2, except with a probability of 1e-3.
  assert 1 <= seen.count(max(seen)) <= 13


def test_moving_average_by_hand():
  state, step = _setup(ema=True)
  start = np.asarray(state.params['head']['bias'])
  after, _ = jax.jit(step)(state, helpers.batch())
  # The first decay is min(0.99, 1 / 10).
  expected = 0.1 * start + 0.9 * np.asarray(after.params['head']['bias'])
  np.testing.assert_allclose(
    after.ema['params']['head']['bias'], expected, rtol=1e-6
  )
  assert set(after.eval_variables) == {'params', 'batch_stats'}
  assert after.eval_variables['params'] is after.ema['params']
  assert after.eval_variables['batch_stats'] is after.ema['batch_stats']


def test_indivisible_accumulation_is_refused():
  state, step = _setup(accumulate_steps=3)
  with pytest.raises(ValueError, match=r'accumulate_steps=3 .* 8 images'):
    step(state, helpers.batch())


@pytest.mark.parametrize('ema', [False, True])
def test_a_run_may_start_from_other_variables(ema):
  optimizer = optax.lion(0.1)
  state = train_step.init_state(
    helpers.TinyNet(), optimizer, channels=3, seed=1, ema=ema
  )
  other = jax.tree.map(lambda x: np.asarray(x) + 1, state.variables)
  after = train_step.init_from_variables(state, other, optimizer)
  jax.tree.map(np.testing.assert_array_equal, after.variables, other)
  jax.tree.map(np.testing.assert_array_equal, after.eval_variables, other)
  assert bool(after.ema) == ema
  # The average has its own buffers, since both are donated to the step.
  for a, b in zip(
    jax.tree.leaves(after.ema), jax.tree.leaves(after.variables), strict=False
  ):
    assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()
  assert int(after.step) == 0
