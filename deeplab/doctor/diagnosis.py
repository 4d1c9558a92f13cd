"""What the scans of all examples mean for training."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from deeplab.data import dataset_info
from deeplab.doctor import findings
from deeplab.doctor import load
from deeplab.doctor import scan
from deeplab.training import class_weights

# Crops are suggested in these steps and up to this size.
_STEP, _LARGEST_CROP = 32, 512
# Of class weights that are suggested: mild ones.
_POWER = 0.5


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """All that the doctor has to say.

  Attributes:
    info: facts about the data set.
    splits: statistics by split.
    findings: what was found, errors first.
    weights: suggested class weights; () where no training pixel is labelled
      or the config's rule is unknown.
    use: what becomes of these weights, in one sentence; '' without them.
    crop: the largest crop (H, W) that half of the training images fill, up to
      512; None where no image could be read.
    advice: flags that change the config for the better, with the reason.
  """

  info: dataset_info.DatasetInfo
  splits: Mapping[str, scan.Split]
  findings: tuple[findings.Finding, ...]
  weights: tuple[float, ...]
  use: str
  crop: tuple[int, int] | None
  advice: tuple[tuple[str, str], ...]

  @property
  def healthy(self) -> bool:
    """Whether training would go right."""
    return all(finding.level != findings.ERROR for finding in self.findings)

  def count(self, level: str) -> int:
    """Returns the number of findings of a level."""
    return sum(finding.level == level for finding in self.findings)


def diagnose(
  scans: Sequence[scan.Scan],
  faults: Sequence[load.Fault],
  config: Any,
  info: dataset_info.DatasetInfo,
) -> Diagnosis:
  """Draws the conclusions.

  Args:
    scans: of the examples of both splits.
    faults: of the splits as such; see `load.listing`.
    config: the experiment; see `start.faults`.
    info: facts about the data set.
  """
  train, evaluation = config.data.train_split, config.data.eval_split
  splits = {
    name: scan.split_of([s for s in scans if s.place.split == name])
    for name in dict.fromkeys((train, evaluation))
  }
  power, rule = config.loss.balance or _POWER, config.loss.balance_rule
  shares = splits[train].shares(info.num_classes)
  weights: tuple[float, ...] = ()
  if shares.any() and rule in class_weights.RULES:
    counts = functools.partial(splits[train].counts, info.num_classes)
    values = class_weights.weigh(shares, counts, rule, power)
    weights = tuple(values.tolist())
  found = findings.find(scans, faults, splits, config, info)
  crop = _crop(splits[train], config)
  advice = (
    *_count(scans, info),
    *_balance(shares, config, info),
    *_resize(crop, splits[train], config),
  )
  use = _use(config.loss) if weights else ''
  return Diagnosis(info, splits, found, weights, use, crop, advice)


def _use(loss: Any) -> str:
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
    f'--config.loss.balance={_POWER:g}; now all count 1.'
  )


def _count(
  scans: Sequence[scan.Scan], info: dataset_info.DatasetInfo
) -> Iterable[tuple[str, str]]:
  """Suggests as many classes as make all ids of the masks classes."""
  count = max((s.beyond for s in scans), default=-1) + 1
  if not count:
    return
  reason = f'masks hold ids up to {count - 1}: if all of them are classes'
  if info.ignore_label is not None and info.ignore_label < count:
    reason += f', with a config.data.ignore_label other than 0 to {count - 1}'
  yield f'--config.data.num_classes={count}', reason


def _balance(
  shares: np.ndarray, config: Any, info: dataset_info.DatasetInfo
) -> Iterable[tuple[str, str]]:
  """Suggests class weights to a config that has none."""
  if config.loss.balance or config.loss.class_weights or not shares.any():
    return
  most = int(shares.argmax())
  least = int(np.where(shares > 0, shares, 2).argmin())
  if most != least:
    yield (
      f'--config.loss.balance={_POWER:g}',
      f'{info.class_names[least]} has {100 * shares[least]:.2g} % of the '
      f'labelled pixels, {info.class_names[most]} {100 * shares[most]:.2g} %; '
      'this gives the weights above',
    )


def _resize(
  crop: tuple[int, int] | None, train: scan.Split, config: Any
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


def _crop(train: scan.Split, config: Any) -> tuple[int, int] | None:
  """Returns the largest crop that half of the images fill.

  Both sides are multiples of 32, plus 1 where the config's crop is odd.
  """
  if not len(train.sizes):
    return None
  odd = config.data.augment.random_crop.size[0] % 2
  height, width = (
    int(min(side, _LARGEST_CROP) - odd) // _STEP * _STEP + odd
    for side in np.median(train.sizes, axis=0)
  )
  return max(height, _STEP + odd), max(width, _STEP + odd)
