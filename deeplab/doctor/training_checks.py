"""Finds the mistakes that would end a training run at its start.

The rules are training's own: the functions that reject a config or a data set
when a run starts are called here, with the numbers of the scans.
"""

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import numpy as np

from deeplab.data import datasets
from deeplab.data.augmentation import compose
from deeplab.data.augmentation import sizes
from deeplab.doctor import example_loader
from deeplab.doctor import scan
from deeplab.quantization import rules
from deeplab.training import class_weights
from deeplab.training import limits


def find_issues(
  train: scan.SplitStatistics, config: Any, dataset: datasets.Dataset
) -> list[example_loader.Issue]:
  """Returns the mistakes that would end a run before its first step.

  Args:
    train: statistics of the training split.
    config: the config; reads `data`, `loss`, and the fields that say how large
      a batch is and how many steps a run takes.
    dataset: its data set.
  """
  checks: list[tuple[str, Callable[[], Any]]] = [
    ('augment', lambda: _run_augmentation_once(dataset)),
    (
      'weights',
      lambda: class_weights.check_loss_config(
        config.loss, dataset.info.num_classes
      ),
    ),
    ('batch', lambda: _check_limits(config, len(train.scans))),
  ]
  if len(train.sizes):
    ops = compose.compose_known_ops(config.data.augment)
    augmented = _possible_output_sizes(ops, train.sizes)
    checks.append(('sizes', lambda: compose.require_same_size(augmented)))
  issues = []
  for kind, check in checks:
    try:
      check()
    except ValueError as error:
      issues.append(example_loader.Issue(kind, str(error)))
  return issues


def _check_limits(config: Any, examples: int) -> None:
  """Checks the batch size and the number of steps of a run.

  Args:
    config: the config.
    examples: number of training examples; 0 skips the number of steps, as
      missing files are reported on their own.

  Raises:
    ValueError: the examples do not fill a batch, or no step would be taken.
  """
  limits.check_positive(config)
  limits.check_batch_size(config, rules.has_frozen_batch_norm(config))
  if examples:
    limits.total_steps(config, examples)


def _run_augmentation_once(dataset: datasets.Dataset) -> None:
  """Builds the augmentation and applies it to a black image of 8x8 pixels.

  The image has the channels and the depth of the data set.

  Raises:
    ValueError: an op is unknown, has wrong parameters, or does not take such
      images.
  """
  example = {
    'image': np.zeros((8, 8, dataset.spec.channels), dataset.spec.dtype),
    'label': np.zeros((8, 8), np.uint8),
  }
  compose.compose_ops(dataset.config.augment, dataset.config.mean)(
    example, np.random.default_rng(0)
  )


def _possible_output_sizes(
  ops: compose.Compose, image_sizes: np.ndarray
) -> Iterable[sizes.Size]:
  """Returns the smallest and the largest sizes that the ops may make.

  Args:
    ops: the augmentation.
    image_sizes: int [n, 2], (H, W) of each image.
  """
  return {
    ops.size_after((height, width), quantile)
    for height, width in np.unique(image_sizes, axis=0).tolist()
    for quantile in (0.0, 1.0)
  }
