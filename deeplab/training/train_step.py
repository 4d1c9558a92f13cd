"""The training step: a pure function of the state and one device's batch.

It knows devices only by the name of a pmap axis; `parallel.py` maps it over
them. In order: loss and gradients (of the batch at once, or accumulated over
its parts), the sum over devices, the optimizer's update, and what follows the
new parameters: activation ranges of simulated int8, and the moving average.
"""

from collections.abc import Callable
import dataclasses
from typing import Any
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from deeplab.training import losses

Array = jax.Array
PyTree = Any


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes, one copy per device.

  Attributes:
    step: number of steps taken, int32.
    params: parameters, float32.
    batch_stats: BatchNorm's running statistics, float32.
    opt_state: the state of the optimizer.
    quant_stats: {'min', 'max'} of activations where int8 is simulated, else {}.
      They are moving averages themselves, so `ema` does not hold them.
    ema: moving averages of {'params', 'batch_stats'}, or {} where the run
      keeps none.
    nonfinite_step: the first step whose loss, gradients or update were not
      finite, int32; -1 while all are. Kept on the device: reading it every
      step would force a sync.
    rate_scale: float32 factor on the updates where evaluations lower the
      learning rate, else None. Checkpoints hold it in the metadata, as
      `early_stopping.ControlState.rate_scale`.
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
    """The moving averages if the run keeps them, else `variables`."""
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
  """Initializes parameters and optimizer state.

  The model is initialized on one image of 65 x 65, so that no memory of the
  size of a training crop is needed. Activation ranges, where the model has
  any, still have to be calibrated.

  Args:
    model: a `Segmenter`.
    optimizer: the optimizer of the run.
    channels: number of channels of the images.
    seed: seed of the parameters.
    ema: True keeps moving averages in the state.
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
  """Replaces the random variables of a new run, with other ones.

  The moving averages start from the new variables too, and the state of the
  optimizer is initialized again.

  Args:
    state: a state from `init_state`.
    variables: {'params', 'batch_stats'} to start from, and 'quant_stats' where
      the state has them.
    optimizer: the optimizer of the run.
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
  """Returns one dropout key for each example.

  An example gets the same mask on whatever device it is trained.

  Args:
    seed: seed of the run.
    index: [B] uint32 global indices of the examples in the run.

  Returns:
    [B] PRNG keys.
  """
  key = jax.random.fold_in(jax.random.key(seed), 0x0D0)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


class Gradients(NamedTuple):
  """Loss and gradients of one device's share of the batch.

  Attributes:
    loss: float32 share of the loss.
    main_loss: float32 share of the main output's part of the loss.
    batch_stats: BatchNorm's running statistics after the forward pass.
    observed: minima and maxima of the activations where int8 is simulated,
      else {}.
    grads: gradients, of the structure of the parameters.
  """

  loss: Array
  main_loss: Array
  batch_stats: PyTree
  observed: PyTree
  grads: PyTree


@dataclasses.dataclass(frozen=True)
class RangeTracking:
  """Settings of the moving averages of activation ranges in simulated int8.

  Attributes:
    decay: share of the old range that a step keeps.
    freeze_step: ranges are frozen from this step on; 0: never.
    observer: the network whose activations are recorded, in inference mode,
      where training runs BatchNorm on the statistics of the batch; None: the
      trained network itself, in the training pass.
  """

  decay: float
  freeze_step: int
  observer: Any | None = None


# Not compared, and hashed by identity: a `Loss` holds dicts.
@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
  """One update from one device's share of the global batch.

  The loss is that of the whole global batch, and gradients are summed over
  devices and accumulation steps: how the batch is split changes nothing but
  rounding (and, under accumulation, the batch that BatchNorm sees). A loss
  that is not `separable` (hard pixels, overlaps of regions) costs a second
  forward pass under accumulation, and the memory of all outputs.

  Attributes:
    model: a `Segmenter` built with the same `axis_name`.
    optimizer: the optimizer of the run.
    loss: the loss.
    seed: seed of dropout, and of the steps in which class weights hold.
    accumulate_steps: number of equal parts that the device's share is split
      into; their gradients are summed.
    ema_decay: decay of the moving averages, where the state has them.
    axis_name: pmap axis, or None on one device without pmap.
    range_tracking: settings of activation ranges where the model simulates
      int8 (which applies no dropout), else None.
  """

  model: Any
  optimizer: optax.GradientTransformation
  loss: losses.Loss
  seed: int
  accumulate_steps: int = 1
  ema_decay: float = 0.0
  axis_name: str | None = None
  range_tracking: RangeTracking | None = None

  def __call__(
    self, state: TrainState, batch: dict[str, Array]
  ) -> tuple[TrainState, dict[str, Array]]:
    """Takes one step.

    Args:
      state: the state before the step.
      batch: 'image' [b, H, W, C] float32, normalized; 'label' [b, H, W] integer
        train ids; 'index' [b] uint32 global example indices.

    Returns:
      The state after the step, and {'loss', 'main_loss', 'grad_norm',
      'update_norm', 'param_norm'}: float32 scalars of the global batch.

    Raises:
      ValueError: the batch does not divide into `accumulate_steps` parts.
    """
    result = self.compute_gradients(state, batch)
    total, main, grads = (result.loss, result.main_loss, result.grads)
    if self.axis_name is not None:
      total, main, grads = jax.lax.psum((total, main, grads), self.axis_name)

    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params
    )
    if state.rate_scale is not None:
      updates = jax.tree.map(lambda x: x * state.rate_scale, updates)
    params = optax.apply_updates(state.params, updates)

    quant_stats = state.quant_stats
    if self.range_tracking is not None:
      quant_stats = update_ranges(
        state, result.observed, self.range_tracking, self.axis_name
      )
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
      trained = {'params': params, 'batch_stats': result.batch_stats}
      ema = update_ema(state, trained, self.ema_decay)
    new_state = dataclasses.replace(
      state,
      step=state.step + 1,
      params=params,
      batch_stats=result.batch_stats,
      opt_state=opt_state,
      quant_stats=quant_stats,
      ema=ema,
      nonfinite_step=nonfinite_step,
    )
    return new_state, metrics

  def compute_gradients(
    self, state: TrainState, batch: dict[str, Array]
  ) -> Gradients:
    """Computes loss and gradients of one device's share of the batch.

    Args:
      state: the state before the step.
      batch: 'image' [b, H, W, C] float32, 'label' [b, H, W] integer train ids,
        'index' [b] uint32 global example indices.

    Raises:
      ValueError: the batch does not divide into `accumulate_steps` parts.
    """
    size = batch['image'].shape[0]
    if size % self.accumulate_steps:
      raise ValueError(
        f'accumulate_steps={self.accumulate_steps} does not divide the {size} '
        'images of each device; change accumulate_steps or batch_size'
      )
    # Both are of the global batch, which is more than a part of it shows.
    weighted = self.loss.sample_class_weighting(self.seed, state.step)
    count = self.loss.compute_normalizer(
      batch['label'], self.axis_name, weighted
    )

    def output_loss(outputs, labels):
      logits, auxiliary = outputs
      return self.loss.device_loss(
        logits,
        auxiliary,
        labels,
        count,
        self.axis_name,
        weighted,
        state.step,
      )

    def loss_fn(params, batch_stats, part):
      outputs, updates = self._forward(state, params, batch_stats, part)
      total, main = output_loss(outputs, part['label'])
      return total, (main, updates)

    if self.accumulate_steps == 1:
      (total, (main, (batch_stats, observed))), grads = jax.value_and_grad(
        loss_fn, has_aux=True
      )(state.params, state.batch_stats, batch)
      return Gradients(total, main, batch_stats, observed, grads)

    parts = self._split(batch)
    if self.loss.separable:
      return _accumulate(loss_fn, state, parts)

    # Parts need each other's outputs. First the gradient of the loss with
    # respect to every output, of all parts together; then each part carries
    # its own on to the parameters, as the gradient of a dot product.
    outputs = jax.lax.map(
      lambda part: self._forward(state, state.params, state.batch_stats, part)[
        0
      ],
      parts,
    )
    outputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
    (total, main), output_grads = jax.value_and_grad(output_loss, has_aux=True)(
      outputs, batch['label']
    )
    parts['output_grads'] = self._split(output_grads)

    def dot_product(params, batch_stats, part):
      outputs, updates = self._forward(state, params, batch_stats, part)
      product = _tree_vdot(part['output_grads'], outputs)
      return product, (product, updates)

    return _accumulate(dot_product, state, parts)._replace(
      loss=total, main_loss=main
    )

  def _split(self, tree: PyTree) -> PyTree:
    """Reshapes arrays [b, ...] to [accumulate_steps, parts of b, ...]."""
    return jax.tree.map(
      lambda x: x.reshape(self.accumulate_steps, -1, *x.shape[1:]), tree
    )

  def _forward(
    self,
    state: TrainState,
    params: PyTree,
    batch_stats: PyTree,
    part: dict[str, Array],
  ) -> tuple[tuple[Array, tuple[Array, ...]], tuple[PyTree, PyTree]]:
    """Runs the network in training mode.

    Returns:
      ((logits, auxiliary logits), (new batch_stats, observed ranges)).
    """
    variables = {'params': params, 'batch_stats': batch_stats}
    if self.range_tracking is None:
      output, updates = self.model.apply(
        variables,
        part['image'],
        train=True,
        dropout_keys=dropout_keys(self.seed, part['index']),
        mutable=['batch_stats'],
      )
      observed = {}
    else:
      variables['quant_stats'] = state.quant_stats
      output, updates = self.model.apply(
        variables,
        part['image'],
        train=True,
        mutable=['batch_stats', 'observed'],
      )
      observed = updates['observed']
      if self.range_tracking.observer is not None:
        _, inference = self.range_tracking.observer.apply(
          jax.lax.stop_gradient(variables), part['image'], mutable=['observed']
        )
        observed = inference['observed']
    return (
      (output.logits, output.auxiliary),
      (updates.get('batch_stats', batch_stats), observed),
    )


def _accumulate(
  loss_fn: Callable[..., Any], state: TrainState, parts: PyTree
) -> Gradients:
  """Sums losses and gradients over the parts of a batch, one after another.

  Args:
    loss_fn: maps (params, batch_stats, part) to (loss, (main loss, (new
      batch_stats, observed ranges))).
    state: the state before the step.
    parts: the batch, with a leading axis of parts.
  """
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

  def add_part(carry: Gradients, part):
    (total, (main, (batch_stats, observed))), grads = grad_fn(
      state.params, carry.batch_stats, part
    )
    grads = jax.tree.map(jnp.add, carry.grads, grads)
    observed = _merge_ranges(jnp.minimum, jnp.maximum, carry.observed, observed)
    return Gradients(
      carry.loss + total, carry.main_loss + main, batch_stats, observed, grads
    ), None

  # Ranges hold 0, so minima and maxima may start from it.
  observed, grads = jax.tree.map(
    jnp.zeros_like, (state.quant_stats, state.params)
  )
  start = Gradients(
    jnp.float32(0), jnp.float32(0), state.batch_stats, observed, grads
  )
  return jax.lax.scan(add_part, start, parts)[0]


def update_ema(state: TrainState, trained: PyTree, ema_decay: float) -> PyTree:
  """Updates the moving averages of the weights.

  The decay is warmed up (TensorFlow's `num_updates`), so that the average is
  not biased towards the initial weights:

      decay_t = min(ema_decay, (1 + t) / (10 + t))

  Args:
    state: the state before the step, whose averages are updated.
    trained: {'params', 'batch_stats'} after the step.
    ema_decay: decay that the warm-up ends with.
  """
  t = state.step.astype(jnp.float32)
  decay = jnp.minimum(ema_decay, (1 + t) / (10 + t))
  return jax.tree.map(
    lambda average, new: decay * average + (1 - decay) * new,
    state.ema,
    trained,
  )


def update_ranges(
  state: TrainState,
  observed: PyTree,
  range_tracking: RangeTracking,
  axis_name: str | None,
) -> PyTree:
  """Updates the moving averages of activation ranges.

  Args:
    state: the state before the step, whose ranges are updated.
    observed: minima and maxima of this device's activations in the step.
    range_tracking: decay and freezing.
    axis_name: pmap axis, or None.
  """
  if axis_name is not None:
    # Devices see different images.
    observed = _merge_ranges(
      lambda x: jax.lax.pmin(x, axis_name),
      lambda x: jax.lax.pmax(x, axis_name),
      observed,
    )
  unfrozen = (
    True
    if not range_tracking.freeze_step
    else state.step < range_tracking.freeze_step
  )
  rate = jnp.where(unfrozen, 1 - range_tracking.decay, 0.0)
  return jax.tree.map(
    lambda old, new: old + rate * (new - old), state.quant_stats, observed
  )


def _merge_ranges(
  merge_min: Callable[..., Array],
  merge_max: Callable[..., Array],
  *ranges: PyTree,
) -> PyTree:
  """Merges trees of ranges: one function on minima, another on maxima."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *ends: (merge_min if path[-1].key == 'min' else merge_max)(
      *ends
    ),
    *ranges,
  )


def _tree_vdot(a: PyTree, b: PyTree) -> Array:
  """Returns the dot product of two trees of arrays, a scalar."""
  total: Any = sum(
    jnp.vdot(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )
  return total


def _global_norm(tree: PyTree) -> Array:
  """Returns the Euclidean norm of all leaves, computed as one sum."""
  vector = jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)])
  return jnp.sqrt(jnp.vdot(vector, vector))
