"""What the scans of all examples mean for training."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.doctor import example_loader
from deeplab.doctor import findings
from deeplab.doctor import scan
from deeplab.training import class_weights

# Crops are suggested in these steps and up to this size.
_CROP_STEP, _LARGEST_CROP = 32, 512
# Of class weights that are suggested: mild ones.
_SUGGESTED_BALANCE = 0.5


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """All that the doctor has to say.

  Attributes:
    info: facts about the data set.
    splits: statistics by split.
    findings: what was found, errors first.
    weights: suggested class weights; () where no training pixel is labelled
      or the config's rule is unknown.
    weights_remark: what becomes of these weights, in one sentence; '' without
      them.
    crop: the largest crop (H, W) that half of the training images fill, up to
      512; None where no image could be read.
    suggestions: flags that change the config for the better, with the reason.
  """

  info: dataset_info.DatasetInfo
  splits: Mapping[str, scan.SplitStatistics]
  findings: tuple[findings.Finding, ...]
  weights: tuple[float, ...]
  weights_remark: str
  crop: tuple[int, int] | None
  suggestions: tuple[tuple[str, str], ...]

  @property
  def can_train(self) -> bool:
    """Whether training would go right."""
    return all(finding.level != findings.ERROR for finding in self.findings)

  def count(self, level: str) -> int:
    """Returns the number of findings of a level."""
    return sum(finding.level == level for finding in self.findings)


def diagnose(
  scans: Sequence[scan.ExampleScan],
  issues: Sequence[example_loader.Issue],
  config: Any,
  dataset: datasets.Dataset,
) -> Diagnosis:
  """Draws the conclusions.

  Args:
    scans: of the examples of both splits.
    issues: of the splits as such; see `load.list_examples`.
    config: the experiment; see `training_checks.find_issues`.
    dataset: its data set.
  """
  info = dataset.info
  train, evaluation = config.data.train_split, config.data.eval_split
  splits = {
    name: scan.summarize_split([s for s in scans if s.ref.split == name])
    for name in dict.fromkeys((train, evaluation))
  }
  power, rule = (
    config.loss.balance or _SUGGESTED_BALANCE,
    config.loss.balance_rule,
  )
  shares = splits[train].class_frequencies(info.num_classes)
  weights: tuple[float, ...] = ()
  if shares.any() and rule in class_weights.RULES:
    counts = functools.partial(splits[train].class_counts, info.num_classes)
    values = class_weights.compute_weights(shares, counts, rule, power)
    weights = tuple(values.tolist())
  found = findings.collect_findings(scans, issues, splits, config, dataset)
  crop = _largest_filled_crop(splits[train], config)
  advice = (
    *_suggest_num_classes(scans, info),
    *_suggest_balance(shares, config.loss, info),
    *_suggest_crop_size(crop, splits[train], config),
  )
  use = _describe_weights(config.loss) if weights else ''
  return Diagnosis(info, splits, found, weights, use, crop, advice)


def _describe_weights(loss: Any) -> str:
  """Says what the weights of the table are for."""
  if loss.class_weights:
    return (
      'weight: what would make up for rare classes in the loss; '
      'config.loss.class_weights is used instead.'
    )
  if loss.balance:
    return (
      'weight: what a pixel of the class counts in the loss, already, by '
      f'config.loss.balance={loss.balance:g} (0: all count 1).'
    )
  return (
    'weight: what a pixel of the class would count in the loss with '
    f'--config.loss.balance={_SUGGESTED_BALANCE:g}; now all count 1.'
  )


def _suggest_num_classes(
  scans: Sequence[scan.ExampleScan], info: dataset_info.DatasetInfo
) -> Iterable[tuple[str, str]]:
  """Suggests as many classes as make all ids of the masks classes."""
  count = max((s.max_unknown_id for s in scans), default=-1) + 1
  if not count:
    return
  reason = f'masks hold ids up to {count - 1}: if all of them are classes'
  if info.ignore_label is not None and info.ignore_label < count:
    reason += f', with a config.data.ignore_label other than 0 to {count - 1}'
  yield f'--config.data.num_classes={count}', reason


def _suggest_balance(
  shares: np.ndarray, loss: Any, info: dataset_info.DatasetInfo
) -> Iterable[tuple[str, str]]:
  """Suggests class weights to a config that has none."""
  if loss.balance or loss.class_weights or not shares.any():
    return
  most = int(shares.argmax())
  least = int(np.where(shares > 0, shares, 2).argmin())
  if most != least:
    yield (
      f'--config.loss.balance={_SUGGESTED_BALANCE:g}',
      f'{info.class_names[least]} has {100 * shares[least]:.2g} % of the '
      f'labelled pixels, {info.class_names[most]} {100 * shares[most]:.2g} %; '
      'this gives the weights above',
    )


def _suggest_crop_size(
  crop: tuple[int, int] | None, train: scan.SplitStatistics, config: Any
) -> Iterable[tuple[str, str]]:
  """Suggests another crop to a config that takes crops."""
  augment = config.data.augment
  now = tuple(augment.random_crop.size)
  if crop is None or crop == now or 'random_crop' not in augment.ops:
    return
  height, width = np.median(train.sizes, axis=0)
  factor = crop[0] * crop[1] / (now[0] * now[1])
  yield (
    f'--config.data.augment.random_crop.size="({crop[0]},{crop[1]})"',
    f'the largest of height and width up to {_LARGEST_CROP} that half of the '
    f'training images fill (medians {height:.0f} and {width:.0f}); the config '
    f'has {now}; {round(factor, 1 if factor >= 1 else 2)} times the pixels a '
    'step',
  )


def _largest_filled_crop(
  train: scan.SplitStatistics, config: Any
) -> tuple[int, int] | None:
  """Returns the largest crop that half of the images fill.

  Both sides are multiples of 32, plus 1 where the config's crop is odd.
  """
  if not len(train.sizes):
    return None
  odd = config.data.augment.random_crop.size[0] % 2
  height, width = (
    int(min(side, _LARGEST_CROP) - odd) // _CROP_STEP * _CROP_STEP + odd
    for side in np.median(train.sizes, axis=0)
  )
  return max(height, _CROP_STEP + odd), max(width, _CROP_STEP + odd)
