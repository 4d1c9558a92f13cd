"""Optimisers and learning-rate schedules, built from the config."""

from collections.abc import Callable
import re
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

PyTree = Any


def paths(tree: PyTree) -> PyTree:
  """Returns a tree of 'encoder/stem/conv/kernel'-style paths."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: '/'.join(str(getattr(k, 'key', k)) for k in path), tree
  )


def grouped(
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
      jax.tree.leaves(paths(tree)), jax.tree.leaves(tree), strict=True
    ):
      groups.setdefault(label(path), []).append(leaf.reshape(-1))
    return {k: jnp.concatenate(v) for k, v in groups.items()}

  def unpack(vectors: dict[str, jax.Array], like: PyTree) -> PyTree:
    used = dict.fromkeys(vectors, 0)

    def take(path, leaf):
      start = used[label(path)]
      used[label(path)] = start + leaf.size
      return vectors[label(path)][start : start + leaf.size].reshape(leaf.shape)

    return jax.tree.map(take, paths(like), like)

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


def step(
  base: float, total: int, *, milestones: tuple[float, ...], gamma: float
) -> optax.Schedule:
  """Multiplies by `gamma` at each milestone, a share of the run."""
  return optax.piecewise_constant_schedule(
    base, {round(share * total): gamma for share in milestones}
  )


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
  'poly': poly,
  'cosine': cosine,
  'step': step,
}


def schedule(
  config: ConfigDict, learning_rate: float, total_steps: int
) -> optax.Schedule:
  """Builds the learning rate as a function of the step.

  Args:
    config: the config's `schedule` section: `name`, `warmup_steps` (a linear
      factor (t + 1) / warmup_steps on top of the schedule), and the named
      schedule's own fields in a section of its name.
    learning_rate: the highest rate.
    total_steps: steps of the run.

  Raises:
    ValueError: unknown schedule.
  """
  if config.name not in SCHEDULES:
    raise ValueError(
      f'schedule.name={config.name!r} is not one of {sorted(SCHEDULES)}'
    )
  decay = SCHEDULES[config.name](
    learning_rate, total_steps, **config[config.name]
  )
  warmup = config.warmup_steps
  if not warmup:
    return decay
  return lambda t: decay(t) * jnp.minimum(1.0, (t + 1) / warmup)


def sgd(
  rate: optax.Schedule, decay: float, mask: Any, *, momentum: float
) -> optax.GradientTransformation:
  """SGD with momentum; L2 decay joins the gradient before the momentum."""
  return optax.chain(
    optax.add_decayed_weights(decay, mask),
    optax.sgd(rate, momentum=momentum),
  )


def adamw(
  rate: optax.Schedule, decay: float, mask: Any, *, b1: float, b2: float
) -> optax.GradientTransformation:
  """AdamW: the decay is apart from the adaptive step."""
  return optax.adamw(rate, b1=b1, b2=b2, weight_decay=decay, mask=mask)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'sgd': sgd,
  'adamw': adamw,
}


def build(
  config: ConfigDict, rate: optax.Schedule
) -> optax.GradientTransformation:
  """Builds the optimiser.

  Args:
    config: the config's `optimizer` section: `name`, `weight_decay` on
      parameters whose path matches `decay_mask`, `encoder_multiplier` on the
      learning rate below 'encoder/', `clip_norm` on the global gradient norm
      (0: none), and the named optimiser's own fields in a section of its name.
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
    part = 'encoder' if path.startswith('encoder/') else 'rest'
    return f'{part}_decayed' if decayed.fullmatch(path) else f'{part}_plain'

  def mask(word: str) -> Callable[[PyTree], PyTree]:
    return lambda groups: {name: word in name for name in groups}

  def decay_mask(groups: PyTree) -> PyTree:
    chosen = mask('decayed')(groups)
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
  if config.encoder_multiplier != 1.0:
    parts.append(
      optax.masked(optax.scale(config.encoder_multiplier), mask('encoder'))
    )
  return grouped(optax.chain(*parts), label)
