"""What would end a training on the examples at hand, asked ahead.

The rules are training's own: the functions that refuse a run at its start are
called here with what the scans found.
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
  """Returns what would end the training before it learned anything.

  Args:
    train: the scans of the training split.
    config: the experiment; reads `data`, `loss`, and what `limits` reads.
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
    after = _possible_output_sizes(ops, train.sizes)
    checks.append(('sizes', lambda: compose.require_same_size(after)))
  found = []
  for kind, check in checks:
    try:
      check()
    except ValueError as error:
      found.append(example_loader.Issue(kind, str(error)))
  return found


def _check_limits(config: Any, examples: int) -> None:
  """Asks whether the examples, if there are any, make batches and steps.

  Raises:
    ValueError: they do not.
  """
  limits.check_positive(config)
  limits.check_batch_size(config, rules.has_frozen_batch_norm(config))
  if examples:
    limits.total_steps(config, examples)


def _run_augmentation_once(dataset: datasets.Dataset) -> None:
  """Builds the augmentation, and runs it on a black image of the data's kind.

  Raises:
    ValueError: an op is unknown, or not made for such images or parameters.
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
