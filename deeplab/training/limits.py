"""Checks of numbers in a config: batch size, steps, seed, class weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  # Only for annotations: the module works without ml_collections.
  from ml_collections import ConfigDict


def check_positive(config: 'ConfigDict') -> None:
  """Checks that batch size, intervals and learning rate are positive.

  Raises:
    ValueError: one of them is not.
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


def check_seed(seed: int) -> None:
  """Checks that every generator of random numbers takes the seed.

  Args:
    seed: `config.seed`.

  Raises:
    ValueError: it is negative, or has more than 63 bits.
  """
  if not 0 <= seed < 2**63:
    raise ValueError(
      f'config.seed={seed} is not in 0..{2**63 - 1}; choose another one'
    )


def check_batch_size(config: 'ConfigDict', frozen_batch_norm: bool) -> None:
  """Refuses a batch of one image, which has no statistics for BatchNorm.

  Args:
    config: reads `batch_size` and `accumulate_steps`.
    frozen_batch_norm: True if BatchNorm keeps its statistics fixed in training.

  Raises:
    ValueError: BatchNorm would be computed over a single image.
  """
  images = config.batch_size // config.accumulate_steps
  if images < 2 and not frozen_batch_norm:
    raise ValueError(
      f'batch_size={config.batch_size} over accumulate_steps='
      f'{config.accumulate_steps} leaves BatchNorm a single image, whose '
      'pooled features have no variance; raise batch_size, or start from '
      'trained weights with model.frozen_norms=True'
    )


def check_class_weights(weights: Sequence[float], num_classes: int) -> None:
  """Checks that there is one class weight for each class, or none at all.

  Args:
    weights: `config.loss.class_weights`.
    num_classes: number of classes.

  Raises:
    ValueError: there are more or fewer weights.
  """
  if weights and len(weights) != num_classes:
    raise ValueError(
      f'loss.class_weights has {len(weights)} weights for {num_classes} '
      'classes; give one for each class, or () for none'
    )


def total_steps(config: 'ConfigDict', examples: int) -> int:
  """Returns the number of steps of the run.

  An epoch's last partial batch is dropped.

  Args:
    config: reads `batch_size`, `total_steps`, `epochs` and `data.train_split`.
    examples: number of examples of the training split.

  Raises:
    ValueError: the split has fewer examples than a batch, or the run has no
      steps.
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
      f'epochs={config.epochs} of {examples} examples are less than one step; '
      'raise epochs, or set total_steps'
    )
  return total
