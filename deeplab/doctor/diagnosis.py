"""Draws conclusions for training from the scans of all examples."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import itertools
from typing import Any

import numpy as np

from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.data import id_maps
from deeplab.doctor import example_loader
from deeplab.doctor import findings
from deeplab.doctor import scan
from deeplab.training import class_weights

# The sides of a suggested crop are multiples of the one and at most the other.
_CROP_STEP, _LARGEST_CROP = 32, 512
# The value of config.loss.balance that is suggested; it gives mild weights.
_SUGGESTED_BALANCE = 0.5
# Values of masks that are grey levels of classes, as 0, 128 and 255 are.
_MAX_GREYS, _MIN_GREY_STEP = 12, 10


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """The doctor's result, which `summary` and `report` render.

  Attributes:
    info: classes, colors and ids of the data set.
    splits: statistics by split, training first.
    findings: findings, errors first.
    weights: suggested class weights, one per class; () if no training pixel is
      labelled or `config.loss.balance_rule` is unknown.
    weights_remark: a sentence on how the config uses such weights; '' without
      them.
    crop: the largest crop (H, W), up to 512 pixels per side, that half of the
      training images fill; None if no image could be read.
    suggestions: (flag, reason) of changes that would improve the config.
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
    """True if no finding is an error."""
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
    scans: scans of the examples of both splits.
    issues: issues that `example_loader.list_examples` found in listing them.
    config: the config; reads `data`, `loss`, and the fields that say how many
      steps a run takes.
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
  crop = _largest_filled_crop(splits[train], config)
  suggestions = (
    *_suggest_classes(scans, info),
    *_suggest_normalization(splits[train], config),
    *_suggest_balance(shares, config.loss, info),
    *_suggest_crop_size(crop, splits[train], config),
  )
  return Diagnosis(
    info=info,
    splits=splits,
    findings=findings.collect_findings(scans, issues, splits, config, dataset),
    weights=weights,
    weights_remark=_describe_weights(config.loss) if weights else '',
    crop=crop,
    suggestions=suggestions,
  )


def _describe_weights(loss: Any) -> str:
  """Returns a sentence on how the config uses the weights of the table."""
  if loss.class_weights:
    return (
      'weight: would balance rare classes in the loss; not used, because '
      'config.loss.class_weights is set.'
    )
  if loss.balance:
    return (
      "weight: the factor on the loss of the class's pixels, as "
      f'config.loss.balance={loss.balance:g} sets it (0: 1 for all).'
    )
  return (
    "weight: the factor on the loss of the class's pixels that "
    f'--config.loss.balance={_SUGGESTED_BALANCE:g} would set; now 1 for all.'
  )


def _suggest_classes(
  scans: Sequence[scan.ExampleScan], info: dataset_info.DatasetInfo
) -> Iterable[tuple[str, str]]:
  """Suggests an id map, or a number of classes, for the ids of the masks."""
  if info.id_mapping is not None:
    return
  values = {value for s in scans for value in s.raw_ids}
  labels = sorted(values - {dataset_info.IGNORE})
  count = info.num_classes
  if (
    count == len(id_maps.CITYSCAPES)
    and labels
    and count <= labels[-1] <= id_maps.CITYSCAPES[-1]
  ):
    yield (
      '--config.data.id_map=cityscapes',
      f'masks contain ids up to {labels[-1]}, as the labelIds of Cityscapes',
    )
    return
  greys = sorted(values)
  if (
    2 <= len(greys) <= _MAX_GREYS
    and greys[0] == 0
    and greys[-1] == dataset_info.IGNORE
    and min(b - a for a, b in itertools.pairwise(greys)) >= _MIN_GREY_STEP
  ):
    flag = '--config.data.id_map=' + ','.join(
      f'{value}:{i}' for i, value in enumerate(greys)
    )
    if len(greys) != count:
      flag = f'--config.data.num_classes={len(greys)} {flag}'
    shown = ', '.join(map(str, greys))
    yield flag, f'masks contain the values {shown} alone: if each is a class'
    return
  if labels and labels[-1] == count and 0 in values:
    yield (
      '--config.data.id_map=reduce_zero',
      f'masks contain ids 0 to {count}: if 0 is unlabelled and the '
      f'{count} classes begin at 1',
    )
  yield from _suggest_num_classes(scans, info)


def _suggest_num_classes(
  scans: Sequence[scan.ExampleScan], info: dataset_info.DatasetInfo
) -> Iterable[tuple[str, str]]:
  """Suggests a number of classes that includes all ids of the masks."""
  count = max((s.max_unknown_id for s in scans), default=-1) + 1
  if not count:
    return
  reason = f'masks contain ids up to {count - 1}: if all of them are classes'
  if info.ignore_label is not None and info.ignore_label < count:
    reason += f', with a config.data.ignore_label outside 0 to {count - 1}'
  yield f'--config.data.num_classes={count}', reason


def _suggest_normalization(
  train: scan.SplitStatistics, config: Any
) -> Iterable[tuple[str, str]]:
  """Suggests mean and std of the images where the config's are far off."""
  if not findings.rate_normalization(train, config.data):
    return
  mean, std = (
    '(' + ''.join(f'{value:.4g},' for value in values) + ')'
    for values in (train.channel_mean, np.maximum(train.channel_std, 1e-3))
  )
  reason = 'mean and standard deviation of each channel of the training images'
  if config.get('init_from'):
    reason += (
      f'; the weights of config.init_from={config.init_from} were trained on '
      f'mean {tuple(config.data.mean)}, so scale the images if you can'
    )
  yield (
    f'--config.data.mean="{mean}" --config.data.std="{std}"',
    reason,
  )


def _suggest_balance(
  shares: np.ndarray, loss: Any, info: dataset_info.DatasetInfo
) -> Iterable[tuple[str, str]]:
  """Suggests class weights if the config sets none.

  Args:
    shares: float [K], each class's share of the labelled training pixels.
    loss: `config.loss`.
    info: names of the classes.
  """
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
  """Suggests another crop size if the config takes crops."""
  augment = config.data.augment
  now = tuple(augment.random_crop.size)
  if crop is None or crop == now or 'random_crop' not in augment.ops:
    return
  height, width = np.median(train.sizes, axis=0)
  factor = crop[0] * crop[1] / (now[0] * now[1])
  yield (
    f'--config.data.augment.random_crop.size="({crop[0]},{crop[1]})"',
    f'the largest crop, up to {_LARGEST_CROP} pixels per side, that half of '
    'the '
    f'training images fill (median height {height:.0f}, width {width:.0f}); '
    f'the config has {now}, so a step would take '
    f'{round(factor, 1 if factor >= 1 else 2)} times as many pixels',
  )


def _largest_filled_crop(
  train: scan.SplitStatistics, config: Any
) -> tuple[int, int] | None:
  """Returns the largest crop (H, W) that half of the images fill.

  Both sides are multiples of 32, plus 1 if the height of the config's crop is
  odd; at least 32 and at most 512. None if no image could be read.
  """
  if not len(train.sizes):
    return None
  odd = config.data.augment.random_crop.size[0] % 2
  height, width = (
    int(min(side, _LARGEST_CROP) - odd) // _CROP_STEP * _CROP_STEP + odd
    for side in np.median(train.sizes, axis=0)
  )
  return max(height, _CROP_STEP + odd), max(width, _CROP_STEP + odd)
