"""How many images a step takes, steps a run has, and weights there are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  # Only named here: a machine without it can still train.
  from ml_collections import ConfigDict


def check_positive(config: 'ConfigDict') -> None:
  """Refuses counts that make no run.

  Raises:
    ValueError: which one.
  """
  for name in (
    'batch_size',
    'accumulate_steps',
    'log_every_steps',
    'checkpoint.every_steps',
    'checkpoint.keep_latest',
    'eval.batch_size',
    'eval.every_epochs',
    'optimizer.learning_rate',
  ):
    value = config
    for part in name.split('.'):
      value = value[part]
    if not value > 0:
      raise ValueError(f'config.{name}={value} must be greater than 0')


def check_batch_size(config: 'ConfigDict', frozen_batch_norm: bool) -> None:
  """Refuses steps of a single image.

  Raises:
    ValueError: BatchNorm would see a single image.
  """
  images = config.batch_size // config.accumulate_steps
  if images < 2 and not frozen_batch_norm:
    raise ValueError(
      f'batch_size={config.batch_size} over accumulate_steps='
      f'{config.accumulate_steps} leaves BatchNorm a single image, whose '
      'pooled features have no variance; raise batch_size, or train on from '
      'trained weights with model.frozen_norms=True'
    )


def check_class_weights(weights: Sequence[float], num_classes: int) -> None:
  """Refuses `config.loss.class_weights` that are not one a class, or none.

  Raises:
    ValueError: there are more or fewer.
  """
  if weights and len(weights) != num_classes:
    raise ValueError(
      f'loss.class_weights has {len(weights)} weights for {num_classes} '
      'classes; give one a class, or () for none'
    )


def total_steps(config: 'ConfigDict', examples: int) -> int:
  """Returns the length of the run; an epoch's last partial batch is not run.

  Args:
    config: reads `batch_size`, `total_steps`, `epochs` and `data.train_split`.
    examples: number of examples of that split.

  Raises:
    ValueError: fewer examples than a batch, or a run of no steps.
  """
  if examples < config.batch_size:
    raise ValueError(
      f'batch_size={config.batch_size} is more than the {examples} examples '
      f'of split {config.data.train_split!r}; lower batch_size'
    )
  total = config.total_steps or round(
    config.epochs * (examples // config.batch_size)
  )
  if total < 1:
    raise ValueError(
      f'epochs={config.epochs} of {examples} examples make no step; '
      'raise epochs, or set total_steps'
    )
  return total
