"""The training step: pure, and aware of devices by an axis name alone."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from deeplab.training import losses

Array = jax.Array
PyTree = Any


@flax.struct.dataclass
class TrainState:
  """All that a run needs to go on, one copy a device.

  Attributes:
    step: steps done, int32.
    params: parameters, float32.
    batch_stats: BatchNorm's running statistics, float32.
    opt_state: the optimiser's.
    quant_stats: ranges of activations where int8 is simulated, else {}. They
      are averages themselves, so that `ema` holds none.
    ema: moving averages of {'params', 'batch_stats'}, or {} where the run
      keeps none.
    nonfinite_step: the first step whose loss, gradients or update were not
      finite, int32; -1 while there is none. Kept on the device, so that
      nobody waits for every step to hear of it.
    rate_scale: factor on the updates, float32, where evaluations lower the
      rate; else None. It is not in checkpoints: `monitor.Notes` have it.
  """

  step: Array
  params: PyTree
  batch_stats: PyTree
  opt_state: PyTree
  quant_stats: PyTree
  ema: PyTree
  nonfinite_step: Array
  rate_scale: Array | None = None

  @property
  def _quant_stats_collection(self) -> PyTree:
    return {'quant_stats': self.quant_stats} if self.quant_stats else {}

  @property
  def variables(self) -> PyTree:
    """The trained variables, as `model.apply` takes them."""
    return {
      'params': self.params,
      'batch_stats': self.batch_stats,
      **self._quant_stats_collection,
    }

  @property
  def eval_variables(self) -> PyTree:
    """The moving average where there is one, else `variables`."""
    return (
      {**self.ema, **self._quant_stats_collection}
      if self.ema
      else self.variables
    )


def init_state(
  model: Any,
  optimizer: optax.GradientTransformation,
  *,
  channels: int,
  seed: int,
  ema: bool,
) -> TrainState:
  """Initialises parameters and optimiser; no memory of the images' size.

  Ranges, where the model has any, are to be calibrated.

  Args:
    model: a `Segmenter`.
    optimizer: the run's.
    channels: of the images.
    seed: of the parameters.
    ema: whether the state has a moving average.
  """
  variables = jax.jit(model.init)(
    jax.random.key(seed), jnp.zeros((1, 65, 65, channels), jnp.float32)
  )
  quant_stats = variables.get('quant_stats', {})
  variables = {
    'params': variables['params'],
    'batch_stats': variables.get('batch_stats', {}),
  }
  return TrainState(
    step=jnp.int32(0),
    params=variables['params'],
    batch_stats=variables['batch_stats'],
    opt_state=jax.jit(optimizer.init)(variables['params']),
    quant_stats=quant_stats,
    ema=jax.tree.map(jnp.copy, variables) if ema else {},
    nonfinite_step=jnp.int32(-1),
  )


def init_from_variables(
  state: TrainState, variables: PyTree, optimizer: optax.GradientTransformation
) -> TrainState:
  """Returns the start of a run from other variables than the random ones.

  Args:
    state: of `init_state`.
    variables: {'params', 'batch_stats'} in their place, and 'quant_stats' where
      the state has any; the moving average and the optimiser begin with them.
    optimizer: the run's.
  """
  variables = jax.tree.map(jnp.asarray, variables)
  quant_stats = variables.pop('quant_stats', {})
  return dataclasses.replace(
    state,
    params=variables['params'],
    batch_stats=variables['batch_stats'],
    opt_state=jax.jit(optimizer.init)(variables['params']),
    quant_stats=quant_stats,
    ema=jax.tree.map(jnp.copy, variables) if state.ema else {},
  )


def dropout_keys(seed: int, index: Array) -> Array:
  """Returns one key an example, [B], from its global index in the run.

  The same example gets the same mask on whatever device it falls.
  """
  key = jax.random.fold_in(jax.random.key(seed), 0x0D0)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


@dataclasses.dataclass(frozen=True)
class RangeTracking:
  """How the ranges of simulated int8 follow what training sees.

  Attributes:
    decay: share of the old range that a step keeps.
    freeze_step: from this step on they stay; 0: never.
    observer: the network whose activations are looked at in the mode that is
      deployed, where training runs in another; None: the trained one itself.
  """

  decay: float
  freeze_step: int
  observer: Any | None = None


def _merge_ranges(
  lower: Callable[..., Array], higher: Callable[..., Array], *ranges: PyTree
) -> PyTree:
  """Returns what two functions make of the minima and of the maxima."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *ends: (lower if path[-1].key == 'min' else higher)(*ends),
    *ranges,
  )


def _update_ranges(
  state: TrainState,
  observed: PyTree,
  range_tracking: RangeTracking,
  axis_name: str | None,
) -> PyTree:
  """Returns the ranges after a step in which `observed` was seen."""
  if axis_name is not None:
    # Devices see different images.
    over = [
      functools.partial(f, axis_name=axis_name)
      for f in (jax.lax.pmin, jax.lax.pmax)
    ]
    observed = _merge_ranges(*over, observed)
  moves = (
    True
    if not range_tracking.freeze_step
    else state.step < range_tracking.freeze_step
  )
  rate = jnp.where(moves, 1 - range_tracking.decay, 0.0)
  return jax.tree.map(
    lambda old, new: old + rate * (new - old), state.quant_stats, observed
  )


def _psum(axis_name: str | None, tree: PyTree) -> PyTree:
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _global_norm(tree: PyTree) -> Array:
  """Returns the Euclidean norm of all of a tree, as one sum."""
  vector = jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)])
  return jnp.sqrt(jnp.vdot(vector, vector))


def train_step(
  state: TrainState,
  batch: dict[str, Array],
  *,
  model: Any,
  optimizer: optax.GradientTransformation,
  loss: losses.Loss,
  seed: int,
  accumulate_steps: int,
  ema_decay: float,
  axis_name: str | None,
  range_tracking: RangeTracking | None = None,
) -> tuple[TrainState, dict[str, Array]]:
  """One update from one device's share of the global batch.

  The loss is the whole global batch's, and gradients are summed over devices
  and accumulation steps: how the batch is cut changes nothing but rounding
  (and, under accumulation, the batch that BatchNorm sees). A loss whose parts
  need to know each other's outputs (hard pixels, overlaps of regions) costs a
  second forward pass under accumulation, and the memory of all outputs.

  Args:
    state: the state before.
    batch: 'image' [b, H, W, C] float32 normalised, 'label' [b, H, W] integer
      train ids, 'index' [b] uint32 global example indices.
    model: a `Segmenter` built with the same `axis_name`.
    optimizer: its transformation.
    loss: the loss.
    seed: of dropout, and of the steps that class weights hold in.
    accumulate_steps: the share is worked off in so many equal parts.
    ema_decay: of the moving average, where the state has one.
    axis_name: pmap axis, or None on one device without pmap.
    range_tracking: where the model simulates int8, which drops out nothing.

  Returns:
    The state after, and 'loss', 'main_loss', 'grad_norm', 'update_norm',
    'param_norm' of the global batch.

  Raises:
    ValueError: the batch does not divide into `accumulate_steps`.
  """
  local = batch['image'].shape[0]
  if local % accumulate_steps:
    raise ValueError(
      f'accumulate_steps={accumulate_steps} does not divide the {local} '
      'images of each device'
    )
  weighted = loss.sample_class_weighting(seed, state.step)
  count = loss.compute_normalizer(batch['label'], axis_name, weighted)

  def forward(params, batch_stats, part):
    variables = {'params': params, 'batch_stats': batch_stats}
    if range_tracking is None:
      output, updates = model.apply(
        variables,
        part['image'],
        train=True,
        dropout_keys=dropout_keys(seed, part['index']),
        mutable=['batch_stats'],
      )
      seen = {}
    else:
      variables['quant_stats'] = state.quant_stats
      output, updates = model.apply(
        variables,
        part['image'],
        train=True,
        mutable=['batch_stats', 'observed'],
      )
      seen = updates['observed']
      if range_tracking.observer is not None:
        _, looked = range_tracking.observer.apply(
          jax.lax.stop_gradient(variables), part['image'], mutable=['observed']
        )
        seen = looked['observed']
    return (
      (output.logits, output.auxiliary),
      (updates.get('batch_stats', batch_stats), seen),
    )

  def loss_of(outputs, labels):
    logits, auxiliary = outputs
    return loss.device_loss(
      *(logits, auxiliary, labels, count, axis_name, weighted, state.step)
    )

  def loss_fn(params, batch_stats, part):
    outputs, measured = forward(params, batch_stats, part)
    if 'slope' in part:
      total = sum(
        jnp.vdot(slope, output)
        for slope, output in zip(
          jax.tree.leaves(part['slope']), jax.tree.leaves(outputs), strict=True
        )
      )
      main = total
    else:
      total, main = loss_of(outputs, part['label'])
    return total, (main, measured)

  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
  if accumulate_steps == 1:
    (total, (main, (batch_stats, seen))), grads = grad_fn(
      state.params, state.batch_stats, batch
    )
  else:
    cut = functools.partial(
      jax.tree.map, lambda x: x.reshape(accumulate_steps, -1, *x.shape[1:])
    )
    parts = cut(batch)
    whole = None
    if not loss.separable:
      # The slope of the loss in every output, of all parts together; each part
      # then carries its own on to the parameters.
      outputs = jax.lax.map(
        lambda part: forward(state.params, state.batch_stats, part)[0], parts
      )
      outputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
      whole, slope = jax.value_and_grad(loss_of, has_aux=True)(
        outputs, batch['label']
      )
      parts['slope'] = cut(slope)

    def accumulate(carry, part):
      total, main, batch_stats, seen, grads = carry
      (t, (m, (batch_stats, now))), g = grad_fn(state.params, batch_stats, part)
      grads = jax.tree.map(jnp.add, grads, g)
      seen = _merge_ranges(jnp.minimum, jnp.maximum, seen, now)
      return (total + t, main + m, batch_stats, seen, grads), None

    zeros = jax.tree.map(jnp.zeros_like, (state.quant_stats, state.params))
    start = (jnp.float32(0), jnp.float32(0), state.batch_stats, *zeros)
    (total, main, batch_stats, seen, grads), _ = jax.lax.scan(
      accumulate, start, parts
    )
    total, main = whole or (total, main)

  total, main, grads = _psum(axis_name, (total, main, grads))
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  if state.rate_scale is not None:
    updates = jax.tree.map(lambda x: x * state.rate_scale, updates)
  params = optax.apply_updates(state.params, updates)

  quant_stats = state.quant_stats
  if range_tracking is not None:
    quant_stats = _update_ranges(state, seen, range_tracking, axis_name)

  metrics = {
    'loss': total,
    'main_loss': main,
    'grad_norm': _global_norm(grads),
    'update_norm': _global_norm(updates),
    'param_norm': _global_norm(params),
  }
  finite = jnp.isfinite(total + metrics['grad_norm'] + metrics['update_norm'])
  nonfinite_step = jnp.where(
    finite | (state.nonfinite_step >= 0), state.nonfinite_step, state.step + 1
  )
  ema = state.ema
  if ema:
    # Young averages follow faster, as TensorFlow's do: no bias to the start.
    t = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1 + t) / (10 + t))
    ema = jax.tree.map(
      lambda average, new: decay * average + (1 - decay) * new,
      ema,
      {'params': params, 'batch_stats': batch_stats},
    )
  return (
    dataclasses.replace(
      state,
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      quant_stats=quant_stats,
      ema=ema,
      nonfinite_step=nonfinite_step,
    ),
    metrics,
  )
