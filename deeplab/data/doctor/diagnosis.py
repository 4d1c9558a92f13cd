"""What the scans of all examples mean for training."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from deeplab import class_weights
from deeplab.data import info as info_lib
from deeplab.data.doctor import load
from deeplab.data.doctor import scan

ERROR, WARNING, NOTE = LEVELS = ('error', 'warning', 'note')

# Level, and what is wrong and what to do, by kind of finding.
KINDS: dict[str, tuple[str, str]] = {
  'files': (ERROR, 'A split is not whole: add, remove or correct the files.'),
  'unreadable': (ERROR, 'Files cannot be read: replace or remove them.'),
  'mismatch': (ERROR, 'Masks differ in size from their images.'),
  'value': (
    ERROR,
    'Masks hold values that are no class: correct them, or '
    'config.data.num_classes and config.data.ignore_label.',
  ),
  'color': (
    ERROR,
    'Masks hold colours that no class has: correct them, or '
    'config.data.color_map.',
  ),
  'jpeg': (
    ERROR,
    'Masks are JPEG, whose compression changes ids: save them as PNG.',
  ),
  'palettes': (
    ERROR,
    'Palette masks give one id several colours, so the id means several '
    'things (the index is read, not its colour): save all with one palette.',
  ),
  'one_class': (
    ERROR,
    'The training masks are labelled with fewer than two classes: there is '
    'nothing to tell apart.',
  ),
  'leak': (
    ERROR,
    'The same image is in both splits, so the evaluation scores what was '
    'learned by heart: remove one.',
  ),
  'empty_crops': (
    ERROR,
    'Most training crops would hold no labelled pixel: enlarge '
    'config.data.augment.random_crop.size, or label more.',
  ),
  'some_empty_crops': (
    WARNING,
    'Some training crops would hold no labelled pixel, and teach nothing.',
  ),
  'unlabelled': (WARNING, 'Masks have no labelled pixel.'),
  'absent': (WARNING, 'Classes have no pixel in the training split.'),
  'ignored': (WARNING, 'More than half of all pixels are ignored.'),
  'repeated': (WARNING, 'Images are in one split more than once.'),
  'alike': (
    WARNING,
    'Images of the two splits look alike: is one scene in both?',
  ),
  'padded': (
    WARNING,
    'Most images are smaller than the crop at every scale, and are padded.',
  ),
  'palette': (
    NOTE,
    'Palette masks: their indices are read as ids, their colours are not.',
  ),
}

# Perceptual hashes of 256 bits that differ in no more are of images alike: JPEG
# of low quality, half the size and other brightness change up to 25 bits of a
# street scene, and two scenes of one street differ in 70 and more.
_ALIKE = 24
# Shares of crops without a label that are worth a word, and that are too many.
_SOME_EMPTY, _MOST_EMPTY = 0.01, 0.5
# Crops are suggested in these steps and up to this size.
_STEP, _LARGEST_CROP = 32, 512


@dataclasses.dataclass(frozen=True)
class Finding:
  """One kind of finding, with all that it was found in.

  Attributes:
    kind: a key of KINDS.
    details: a sentence or a name each.
    places: groups of examples that show it, such as two equal images.
  """

  kind: str
  details: tuple[str, ...]
  places: tuple[tuple[load.Place, ...], ...] = ()

  @property
  def level(self) -> str:
    """ERROR, WARNING or NOTE."""
    return KINDS[self.kind][0]

  @property
  def meaning(self) -> str:
    """What is wrong, and what to do."""
    return KINDS[self.kind][1]


@dataclasses.dataclass(frozen=True)
class Split:
  """Statistics of one split.

  Attributes:
    scans: of its examples.
    pixels: int64 [256], pixels by train id, IGNORE included.
    sizes: int [n, 2], (H, W) of the images that could be read.
    empty: share of crops without a label, 0..1.
  """

  scans: tuple[scan.Scan, ...]
  pixels: np.ndarray
  sizes: np.ndarray
  empty: float

  @property
  def ignored(self) -> float:
    """Share of pixels that are ignored, 0..1."""
    return float(self.pixels[info_lib.IGNORE] / max(1, self.pixels.sum()))

  def shares(self, num_classes: int) -> np.ndarray:
    """Returns each class's share of the labelled pixels, [K]; 0 of none."""
    counts = self.pixels[:num_classes]
    return counts / max(1, counts.sum())

  def counts(self, num_classes: int) -> np.ndarray:
    """Returns the labelled pixels of each readable mask by class, [N, K]."""
    return np.array(
      [s.pixels[:num_classes] for s in self.scans if s.pixels is not None]
    )


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """All that the doctor has to say.

  Attributes:
    info: facts about the data set.
    splits: statistics by split.
    findings: what was found, errors first.
    weights: suggested class weights; () where no training pixel is labelled.
    balance: the `config.loss.balance` that makes them.
    crop: suggested crop (H, W); None where no image could be read.
  """

  info: info_lib.DatasetInfo
  splits: Mapping[str, Split]
  findings: tuple[Finding, ...]
  weights: tuple[float, ...]
  balance: float
  crop: tuple[int, int] | None

  @property
  def healthy(self) -> bool:
    """Whether training would go right."""
    return all(finding.level != ERROR for finding in self.findings)

  def count(self, level: str) -> int:
    """Returns the number of findings of a level."""
    return sum(finding.level == level for finding in self.findings)


def diagnose(
  scans: Sequence[scan.Scan],
  faults: Sequence[load.Fault],
  config: Any,
  info: info_lib.DatasetInfo,
) -> Diagnosis:
  """Draws the conclusions.

  Args:
    scans: of the examples of both splits.
    faults: of the splits as such; see `load.listing`.
    config: the experiment; reads `data`, `loss.balance` and its rule.
    info: facts about the data set.
  """
  train, evaluation = config.data.train_split, config.data.eval_split
  splits = {
    name: _split([s for s in scans if s.place.split == name])
    for name in dict.fromkeys((train, evaluation))
  }
  findings = [
    *_faults(scans, faults),
    *_palettes(scans),
    *_labels(splits[train], info),
    *_crops(splits[train], config.data.augment),
    *_copies(scans),
  ]
  if train != evaluation:
    findings += _alike(splits[train].scans, splits[evaluation].scans)
  power, rule = config.loss.balance or 0.5, config.loss.balance_rule
  shares = splits[train].shares(info.num_classes)
  weights: tuple[float, ...] = ()
  if shares.any():
    counts = functools.partial(splits[train].counts, info.num_classes)
    found = class_weights.weigh(shares, counts, rule, power)
    weights = tuple(found.tolist())
  findings.sort(key=lambda finding: list(KINDS).index(finding.kind))
  return Diagnosis(
    info, splits, tuple(findings), weights, power, _crop(splits[train], config)
  )


def _split(scans: Sequence[scan.Scan]) -> Split:
  pixels = np.zeros(256, np.int64)
  for s in scans:
    if s.pixels is not None:
      pixels += s.pixels
  return Split(
    tuple(scans),
    pixels,
    np.array([s.size for s in scans if s.size], int).reshape(-1, 2),
    float(np.mean([s.empty for s in scans])) if scans else 0.0,
  )


def _faults(
  scans: Sequence[scan.Scan], faults: Sequence[load.Fault]
) -> Iterable[Finding]:
  """Collects the faults of single files by kind."""
  texts: dict[str, list[str]] = {}
  places: dict[str, list[tuple[load.Place, ...]]] = {}
  for kind, text in dict.fromkeys(faults):  # a pool is looked at twice
    texts.setdefault(kind, []).append(text)
  for s in scans:
    for kind, text in s.faults:
      texts.setdefault(kind, []).append(text)
      places.setdefault(kind, []).append((s.place,))
  for kind, found in texts.items():
    yield Finding(kind, tuple(found), tuple(places.get(kind, ())))


def _palettes(scans: Sequence[scan.Scan]) -> Iterable[Finding]:
  """Tells of palette masks, and of palettes that contradict each other."""
  first: dict[int, tuple[info_lib.Color, load.Place]] = {}
  clashes: dict[int, tuple[str, tuple[load.Place, ...]]] = {}
  for s in scans:
    for value, color in s.palette:
      known, place = first.setdefault(value, (color, s.place))
      if color != known:
        text = (
          f'{s.place.mask}: id {value} is {color} here, and {known} in '
          f'{place.mask}'
        )
        clashes.setdefault(value, (text, (place, s.place)))
  if clashes:
    texts, places = zip(*clashes.values(), strict=True)
    yield Finding('palettes', texts, places)
  with_palette = [s for s in scans if s.palette]
  if with_palette:
    yield Finding('palette', (f'{len(with_palette)} of {len(scans)} masks',))


def _labels(train: Split, info: info_lib.DatasetInfo) -> Iterable[Finding]:
  """Looks at what the training masks are labelled with."""
  empty = [
    s
    for s in train.scans
    if s.pixels is not None
    and not s.pixels[: info.num_classes].any()
    and s.pixels[info_lib.IGNORE]
  ]
  if empty:
    yield Finding(
      'unlabelled',
      tuple(s.place.mask or s.place.image for s in empty),
      tuple((s.place,) for s in empty),
    )
  if not train.pixels.any():
    return
  present = np.flatnonzero(train.pixels[: info.num_classes]).tolist()
  absent = [name for i, name in enumerate(info.class_names) if i not in present]
  if absent:
    yield Finding('absent', tuple(absent))
  if len(present) < 2 <= info.num_classes:
    names = ', '.join(info.class_names[i] for i in present) or 'none'
    hint = ''
    if train.pixels[info_lib.IGNORE] and info.ignore_label == info_lib.IGNORE:
      hint = (
        '; the value 255 is the ignore label: if it is meant as a class, write '
        'that class as 1'
      )
    yield Finding('one_class', (f'labelled: {names}{hint}',))
  if train.ignored > 0.5:
    yield Finding('ignored', (f'{train.ignored:.0%} of the training pixels',))


def _crops(train: Split, augment: Any) -> Iterable[Finding]:
  """Looks at what training crops would hold."""
  if train.empty >= _SOME_EMPTY:
    worst = sorted(train.scans, key=lambda s: -s.empty)
    worst = [s for s in worst if s.empty >= _SOME_EMPTY]
    yield Finding(
      'empty_crops' if train.empty >= _MOST_EMPTY else 'some_empty_crops',
      (
        f'{train.empty:.1%} of the crops; by image:',
        *(f'{s.place.mask or s.place.image}: {s.empty:.0%}' for s in worst),
      ),
      tuple((s.place,) for s in worst),
    )
  sizes, counts = np.unique(train.sizes, axis=0, return_counts=True)
  small = sum(
    count
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)
    if _padded(scan.windows(augment, (size[0], size[1])), size)
  )
  if small > 0.5 * len(train.sizes):
    yield Finding('padded', (f'{small} of {len(train.sizes)} training images',))


def _padded(windows: Sequence[tuple[int, int]], size: Sequence[int]) -> bool:
  """Returns whether the smallest of the windows is larger than the image."""
  least = np.min(windows, axis=0) if windows else 0
  return bool(np.any(np.less(size, least)))


def _name(place: load.Place) -> str:
  return place.image if place.mask else f'{place.split}/{place.image}'


def _copies(scans: Sequence[scan.Scan]) -> Iterable[Finding]:
  """Finds images of equal pixels, within a split and across splits."""
  groups: dict[bytes, list[load.Place]] = {}
  for s in scans:
    if s.digest:
      groups.setdefault(s.digest, []).append(s.place)
  copies = [tuple(group) for group in groups.values() if len(group) > 1]
  for kind, leaks in (('leak', True), ('repeated', False)):
    found = [g for g in copies if (len({p.split for p in g}) > 1) == leaks]
    if found:
      yield Finding(
        kind, tuple(' = '.join(map(_name, g)) for g in found), tuple(found)
      )


def _alike(
  train: Sequence[scan.Scan], evaluation: Sequence[scan.Scan]
) -> list[Finding]:
  """Finds images of two splits that look alike without being equal."""
  train = [s for s in train if s.look]
  evaluation = [s for s in evaluation if s.look]
  if not train or not evaluation:
    return []
  looks = [
    np.frombuffer(b''.join(s.look for s in side), np.uint64).reshape(-1, 4)
    for side in (train, evaluation)
  ]
  digests = {s.digest for s in train}
  found = []
  for bits, s in zip(looks[1], evaluation, strict=True):
    if s.digest in digests:
      continue  # equal, which is worse
    distance = np.bitwise_count(looks[0] ^ bits).sum(axis=1)
    nearest = int(distance.argmin())
    if distance[nearest] <= _ALIKE:
      found.append((int(distance[nearest]), train[nearest].place, s.place))
  if not found:
    return []
  found.sort()
  return [
    Finding(
      'alike',
      tuple(f'{_name(a)} ~ {_name(b)} ({d} bits of 256)' for d, a, b in found),
      tuple((a, b) for _, a, b in found),
    )
  ]


def _crop(train: Split, config: Any) -> tuple[int, int] | None:
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
