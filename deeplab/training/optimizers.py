"""Optimizers and learning rate schedules, built from the config."""

from collections.abc import Callable
import re
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

PyTree = Any


def parameter_paths(tree: PyTree) -> PyTree:
  """Returns a tree of paths such as 'encoder/stem/conv/kernel'."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: '/'.join(str(getattr(k, 'key', k)) for k in path), tree
  )


def flatten_by_label(
  inner: optax.GradientTransformation, label: Callable[[str], str]
) -> optax.GradientTransformation:
  """Runs an optimizer on a few long vectors instead of hundreds of arrays.

  Parameters whose paths get the same label are concatenated. The update is then
  a handful of kernels whatever the network: updating each array on its own was
  more than half of what a step compiles, and on a GPU launches.

  Args:
    inner: the optimizer of {label: vector}; its masks select by label.
    label: maps a parameter's path to its label.
  """

  def pack(tree: PyTree) -> dict[str, jax.Array]:
    groups: dict[str, list[jax.Array]] = {}
    for path, leaf in zip(
      jax.tree.leaves(parameter_paths(tree)), jax.tree.leaves(tree), strict=True
    ):
      groups.setdefault(label(path), []).append(leaf.reshape(-1))
    return {k: jnp.concatenate(v) for k, v in groups.items()}

  def unpack(vectors: dict[str, jax.Array], like: PyTree) -> PyTree:
    used = dict.fromkeys(vectors, 0)

    def take(path, leaf):
      start = used[label(path)]
      used[label(path)] = start + leaf.size
      return vectors[label(path)][start : start + leaf.size].reshape(leaf.shape)

    return jax.tree.map(take, parameter_paths(like), like)

  def init(params):
    return inner.init(pack(params))

  def update(grads, state, params):
    updates, state = inner.update(pack(grads), state, pack(params))
    return unpack(updates, grads), state

  return optax.GradientTransformation(init, update)


def poly(
  base: float, total: int, *, power: float, end: float
) -> optax.Schedule:
  """`(base - end) * (1 - t / total) ** power + end` (DeepLab, mmseg).

  Args:
    base: the highest rate.
    total: number of steps of the schedule.
    power: exponent.
    end: the last rate.
  """
  return optax.polynomial_schedule(base, end, power, total)


def cosine(base: float, total: int, *, end: float) -> optax.Schedule:
  """Half a cosine from `base` to `end`.

  Args:
    base: the highest rate.
    total: number of steps of the schedule.
    end: the last rate.
  """
  return optax.cosine_decay_schedule(base, total, alpha=end / base)


def step_decay(
  base: float, total: int, *, milestones: tuple[float, ...], gamma: float
) -> optax.Schedule:
  """Multiplies the rate by `gamma` at each milestone.

  Args:
    base: the first rate.
    total: number of steps of the schedule.
    milestones: shares of the run.
    gamma: factor on the rate.
  """
  return optax.piecewise_constant_schedule(
    base, {round(share * total): gamma for share in milestones}
  )


def one_cycle(
  base: float, total: int, *, rise: float, start: float, end: float
) -> optax.Schedule:
  """Half a cosine up to `base`, half a cosine down (PyTorch's OneCycleLR).

  Smith and Topin, arXiv:1708.07120.

  Args:
    base: the highest rate.
    total: number of steps of the schedule.
    rise: share of the steps in which the rate rises.
    start: first rate, as a factor on `base`; 1 / div_factor in PyTorch.
    end: last rate, as a factor on `base`.
  """
  top = rise * total - 1

  def half(t, first, last):
    return last + (first - last) * (1 + jnp.cos(jnp.pi * t)) / 2

  def rate(t):
    down = jnp.clip((t - top) / max(total - 1 - top, 1), 0, 1)
    up = jnp.clip(t / max(top, 1e-6), 0, 1)
    return base * jnp.where(t <= top, half(up, start, 1), half(down, 1, end))

  return rate


def plateau(base: float, total: int, **fields: Any) -> optax.Schedule:
  """`base`, which evaluations lower during the run.

  The factor is `early_stopping.ControlState.rate_scale`; the schedule's fields
  are read there.
  """
  del total, fields
  return optax.constant_schedule(base)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
  'poly': poly,
  'cosine': cosine,
  'step': step_decay,
  'one_cycle': one_cycle,
  'plateau': plateau,
}
# Parts of the network; each has its own factor on the learning rate.
NETWORK_PARTS = ('encoder', 'head', 'auxiliary')
WARMUPS = ('linear', 'constant')


def warmup_steps(config: ConfigDict, total_steps: int) -> int:
  """Returns the number of warm-up steps.

  Args:
    config: the experiment. `schedule.warmup_epochs` is taken as a share of
      `epochs`, so the length of the run must be given in `epochs`.
    total_steps: number of steps of the run.

  Raises:
    ValueError: the warm-up is in epochs but the run in steps, or the warm-up is
      given in both.
  """
  steps, epochs = config.schedule.warmup_steps, config.schedule.warmup_epochs
  if epochs:
    if steps or config.total_steps:
      raise ValueError(
        f'schedule.warmup_epochs={epochs} needs a run whose length and warm-up '
        'are not given in steps: set total_steps and schedule.warmup_steps to '
        '0, or use schedule.warmup_steps instead'
      )
    steps = round(total_steps * epochs / config.epochs)
  return steps


def build_schedule(
  config: ConfigDict, learning_rate: float, total_steps: int, warmup: int
) -> optax.Schedule:
  """Builds the learning rate as a function of the step.

  Args:
    config: the section `schedule`: `name`, the fields of the warm-up, and the
      named schedule's own fields in a section of its name. In the warm-up the
      rate is multiplied by a factor: 'constant' is `warmup_start`; 'linear'
      rises from `warmup_start` to 1, or is (t + 1) / warmup if `warmup_start`
      is 0, so that the first step is not lost. With `warmup_first` the schedule
      starts after the warm-up, which rises to the highest rate, and takes the
      remaining steps (PaddleSeg, torchvision); else both start together.
    learning_rate: the highest rate.
    total_steps: number of steps of the run.
    warmup: number of warm-up steps, from `warmup_steps`.

  Raises:
    ValueError: the schedule or the kind of warm-up is unknown.
  """
  if config.name not in SCHEDULES:
    raise ValueError(
      f'schedule.name={config.name!r} is not one of {sorted(SCHEDULES)}'
    )
  if config.warmup not in WARMUPS:
    raise ValueError(
      f'schedule.warmup={config.warmup!r} is not one of {WARMUPS}'
    )
  shift = warmup if config.warmup_first else 0
  decay = SCHEDULES[config.name](
    learning_rate, max(total_steps - shift, 1), **config[config.name]
  )
  if not warmup:
    return decay
  start = config.warmup_start

  def factor(t):
    if config.warmup == 'constant':
      return jnp.where(t < warmup, start, 1.0)
    rise = start + (1 - start) * t / warmup if start else (t + 1) / warmup
    return jnp.minimum(1.0, rise)

  return lambda t: decay(jnp.maximum(t - shift, 0)) * factor(t)


def sgd(
  rate: optax.Schedule,
  decay: float,
  mask: Any,
  *,
  momentum: float,
  nesterov: bool,
) -> optax.GradientTransformation:
  """SGD with momentum; L2 decay is added to the gradient before it.

  Args:
    rate: learning rate as a function of the step.
    decay: factor of the weight decay.
    mask: selects the decayed parameters, as optax takes it.
    momentum: decay of the momentum.
    nesterov: True for Nesterov's momentum.
  """
  return optax.chain(
    optax.add_decayed_weights(decay, mask),
    optax.sgd(rate, momentum=momentum, nesterov=nesterov),
  )


def adam(
  rate: optax.Schedule,
  decay: float,
  mask: Any,
  *,
  b1: float,
  b2: float,
  epsilon: float,
) -> optax.GradientTransformation:
  """Adam; L2 decay is added to the gradient first (PyTorch, Keras).

  Args:
    rate: learning rate as a function of the step.
    decay: factor of the weight decay.
    mask: selects the decayed parameters, as optax takes it.
    b1: decay of the first moment.
    b2: decay of the second moment.
    epsilon: added to the root of the second moment.
  """
  return optax.chain(
    optax.add_decayed_weights(decay, mask),
    optax.adam(rate, b1=b1, b2=b2, eps=epsilon),
  )


def adamw(
  rate: optax.Schedule, decay: float, mask: Any, *, b1: float, b2: float
) -> optax.GradientTransformation:
  """AdamW: the weight decay is not part of the adaptive step.

  Args:
    rate: learning rate as a function of the step.
    decay: factor of the weight decay.
    mask: selects the decayed parameters, as optax takes it.
    b1: decay of the first moment.
    b2: decay of the second moment.
  """
  return optax.adamw(rate, b1=b1, b2=b2, weight_decay=decay, mask=mask)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'sgd': sgd,
  'adam': adam,
  'adamw': adamw,
}


def build_optimizer(
  config: ConfigDict, rate: optax.Schedule
) -> optax.GradientTransformation:
  """Builds the optimizer.

  Args:
    config: the section `optimizer`: `name`, `weight_decay` of the parameters
      whose path matches `decay_mask`, factors on the learning rate, `clip_norm`
      on the global gradient norm (0: none), and the named optimizer's own
      fields in a section of its name. The factors are `encoder_multiplier` on
      parameters below 'encoder/', `head_multiplier` and `auxiliary_multiplier`
      on those of the other `NETWORK_PARTS`, and `bias_multiplier` on biases in
      addition, except BatchNorm's.
    rate: learning rate as a function of the step.

  Raises:
    ValueError: the optimizer is unknown, or `decay_mask` is not a regular
      expression; when it is initialized, also if no parameter matches it.
  """
  if config.name not in OPTIMIZERS:
    raise ValueError(
      f'optimizer.name={config.name!r} is not one of {sorted(OPTIMIZERS)}'
    )
  try:
    decayed = re.compile(config.decay_mask)
  except re.error as error:
    raise ValueError(
      f'optimizer.decay_mask={config.decay_mask!r} is not a regular '
      f'expression: {error}'
    ) from error

  def label(path: str) -> str:
    part = path.partition('/')[0]
    name = [part if part in NETWORK_PARTS else 'head']
    conv_bias = path.endswith('/bias') and not path.endswith('/bn/bias')
    if config.bias_multiplier != 1.0 and conv_bias:
      name.append('bias')
    name.append('decayed' if decayed.fullmatch(path) else 'plain')
    return '_'.join(name)

  def factor(name: str) -> float:
    bias = config.bias_multiplier if '_bias_' in name else 1.0
    return bias * config[f'{name.partition("_")[0]}_multiplier']

  def decay_mask(groups: PyTree) -> PyTree:
    mask = {name: name.endswith('_decayed') for name in groups}
    if config.weight_decay and not any(mask.values()):
      raise ValueError(
        f'optimizer.decay_mask={config.decay_mask!r} matches no parameter, so '
        f'optimizer.weight_decay={config.weight_decay} would do nothing; a '
        "mask matches whole paths, such as 'encoder/stem/conv/kernel'"
      )
    return mask

  parts = []
  if config.clip_norm:
    parts.append(optax.clip_by_global_norm(config.clip_norm))
  parts.append(
    OPTIMIZERS[config.name](
      rate, config.weight_decay, decay_mask, **config[config.name]
    )
  )
  if any(
    config[f'{part}_multiplier'] != 1.0 for part in (*NETWORK_PARTS, 'bias')
  ):
    parts.append(
      optax.stateless(
        lambda updates, _: {k: factor(k) * u for k, u in updates.items()}
      )
    )
  return flatten_by_label(optax.chain(*parts), label)
