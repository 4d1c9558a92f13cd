"""Optimisers and learning-rate schedules, built from the config."""

from collections.abc import Callable
import re
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

PyTree = Any


def parameter_paths(tree: PyTree) -> PyTree:
  """Returns a tree of 'encoder/stem/conv/kernel'-style paths."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: '/'.join(str(getattr(k, 'key', k)) for k in path), tree
  )


def flatten_by_label(
  inner: optax.GradientTransformation, label: Callable[[str], str]
) -> optax.GradientTransformation:
  """Runs an optimiser on a few long vectors instead of hundreds of arrays.

  Parameters whose paths get the same label are laid end to end. A step is then
  a handful of kernels whatever the network: updates of each array apart were
  more than half of all that a step compiles, and on a GPU launches.

  Args:
    inner: acts on {label: vector}; masks choose by label.
    label: maps a parameter's path to its group.
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
  """`(base - end) * (1 - t / total) ** power + end` (DeepLab, mmseg)."""
  return optax.polynomial_schedule(base, end, power, total)


def cosine(base: float, total: int, *, end: float) -> optax.Schedule:
  """Half a cosine from `base` to `end`."""
  return optax.cosine_decay_schedule(base, total, alpha=end / base)


def step_decay(
  base: float, total: int, *, milestones: tuple[float, ...], gamma: float
) -> optax.Schedule:
  """Multiplies by `gamma` at each milestone, a share of the run."""
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
    total: steps of the run.
    rise: share of the run that goes up.
    start: first rate, as a factor of `base`; 1 / div_factor in PyTorch.
    end: last rate, as a factor of `base`.
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
  """`base`; evaluations lower it as the run goes on (`monitor.py`)."""
  del total, fields
  return optax.constant_schedule(base)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
  'poly': poly,
  'cosine': cosine,
  'step': step_decay,
  'one_cycle': one_cycle,
  'plateau': plateau,
}
# What the network is made of, each with a factor on the rate of its own.
NETWORK_PARTS = ('encoder', 'head', 'auxiliary')
WARMUPS = ('linear', 'constant')


def warmup_steps(config: ConfigDict, total_steps: int) -> int:
  """Returns how many steps the warm-up takes.

  Args:
    config: the whole config; `schedule.warmup_epochs` are a share of `epochs`,
      and need a run whose length those give.
    total_steps: steps of the run.

  Raises:
    ValueError: a warm-up in epochs of a run in steps, or two lengths.
  """
  steps, epochs = config.schedule.warmup_steps, config.schedule.warmup_epochs
  if epochs:
    if steps or config.total_steps:
      raise ValueError(
        f'schedule.warmup_epochs={epochs} is for a run whose length and '
        'warm-up have no other number: set total_steps and '
        'schedule.warmup_steps to 0, or give schedule.warmup_steps alone'
      )
    steps = round(total_steps * epochs / config.epochs)
  return steps


def build_schedule(
  config: ConfigDict, learning_rate: float, total_steps: int, warmup: int
) -> optax.Schedule:
  """Builds the learning rate as a function of the step.

  Args:
    config: the config's `build_schedule` section: `name`, the fields of the
      warm-up, and the named schedule's own fields in a section of its name. In
      the warm-up the rate has a factor: 'constant' is `warmup_start`, 'linear'
      goes from `warmup_start` to 1, or is (t + 1) / warmup where that is 0, so
      that no step is lost. With `warmup_first` the schedule begins after the
      warm-up, which rises to the highest rate, and has the steps that are left
      (PaddleSeg, torchvision); else both begin together.
    learning_rate: the highest rate.
    total_steps: steps of the run.
    warmup: of `warmup_steps`.

  Raises:
    ValueError: unknown schedule, or form of warm-up.
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
  """SGD with momentum; L2 decay joins the gradient before the momentum."""
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
  """Adam; L2 decay joins the gradient before the moments (PyTorch, Keras)."""
  return optax.chain(
    optax.add_decayed_weights(decay, mask),
    optax.adam(rate, b1=b1, b2=b2, eps=epsilon),
  )


def adamw(
  rate: optax.Schedule, decay: float, mask: Any, *, b1: float, b2: float
) -> optax.GradientTransformation:
  """AdamW: the decay is apart from the adaptive step."""
  return optax.adamw(rate, b1=b1, b2=b2, weight_decay=decay, mask=mask)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'sgd': sgd,
  'adam': adam,
  'adamw': adamw,
}


def build_optimizer(
  config: ConfigDict, rate: optax.Schedule
) -> optax.GradientTransformation:
  """Builds the optimiser.

  Args:
    config: the config's `optimizer` section: `name`, `weight_decay` on
      parameters whose path matches `decay_mask`, factors on the learning rate,
      `clip_norm` on the global gradient norm (0: none), and the named
      optimiser's own fields in a section of its name. The factors are
      `encoder_multiplier` below 'encoder/', likewise of `NETWORK_PARTS`, and
      besides `bias_multiplier` on biases other than BatchNorm's.
    rate: learning rate as a function of the step.

  Raises:
    ValueError: unknown optimiser, or a bad pattern; when parameters are seen,
      a pattern that none of them matches.
  """
  if config.name not in OPTIMIZERS:
    raise ValueError(
      f'optimizer.name={config.name!r} is not one of {sorted(OPTIMIZERS)}'
    )
  try:
    decayed = re.compile(config.decay_mask)
  except re.error as error:
    raise ValueError(
      f'optimizer.decay_mask={config.decay_mask!r} is no regular expression: '
      f'{error}'
    ) from error

  def label(path: str) -> str:
    part = path.partition('/')[0]
    words = [part if part in NETWORK_PARTS else 'head']
    conv_bias = path.endswith('/bias') and not path.endswith('/bn/bias')
    if config.bias_multiplier != 1.0 and conv_bias:
      words.append('bias')
    words.append('decayed' if decayed.fullmatch(path) else 'plain')
    return '_'.join(words)

  def factor(name: str) -> float:
    bias = config.bias_multiplier if '_bias_' in name else 1.0
    return bias * config[f'{name.partition("_")[0]}_multiplier']

  def decay_mask(groups: PyTree) -> PyTree:
    chosen = {name: name.endswith('_decayed') for name in groups}
    if config.weight_decay and not any(chosen.values()):
      raise ValueError(
        f'optimizer.decay_mask={config.decay_mask!r} matches no parameter, so '
        f'optimizer.weight_decay={config.weight_decay} would do nothing; a '
        "mask matches whole paths, such as 'encoder/stem/conv/kernel'"
      )
    return chosen

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
