"""What is wrong with a data set, or worth a word, and how it is found."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.data.augmentation import compose
from deeplab.data.builders import folder
from deeplab.doctor import example_loader
from deeplab.doctor import scan
from deeplab.doctor import training_checks

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
  'blank': (
    ERROR,
    'A split has no labelled pixel, so that every score on it is NaN: label '
    'its masks, or correct config.data.ignore_label.',
  ),
  'batch': (
    ERROR,
    'The training split makes no batch: change config.batch_size, or add '
    'examples.',
  ),
  'sizes': (
    ERROR,
    'Training images leave the augmentation in several sizes, which make no '
    'batch: end config.data.augment.ops with random_crop or stretch.',
  ),
  'augment': (
    ERROR,
    'The augmentation does not run on images of this kind: correct '
    'config.data.augment.',
  ),
  'weights': (
    ERROR,
    'The class weights do not fit the data: correct config.loss.class_weights '
    'or config.loss.balance.',
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
  'absent': (WARNING, 'Classes have no pixel in a split.'),
  'ignored': (WARNING, 'More than half of the pixels of a split are ignored.'),
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

# What may be the cause of these in annotations that are drawn, and its cure.
_UNANNOTATED_HINT = (
  ' What nobody drew is ignored: if it is a class of its own, add the name '
  '`background` to classes.txt, and 1 to config.data.num_classes.'
)
_UNANNOTATED_KINDS = (
  *('one_class', 'blank', 'empty_crops', 'some_empty_crops'),
  *('unlabelled', 'ignored'),
)

# Perceptual hashes of 256 bits that differ in no more are of images alike: JPEG
# of low quality, half the size and other brightness change up to 25 bits of a
# street scene, and two scenes of one street differ in 70 and more.
_MAX_HASH_DISTANCE = 24
# Shares of crops without a label that are worth a word, and that are too many.
_EMPTY_WARNING_SHARE, _EMPTY_ERROR_SHARE = 0.01, 0.5


@dataclasses.dataclass(frozen=True)
class Finding:
  """One kind of finding, with all that it was found in.

  Attributes:
    kind: a key of KINDS.
    details: a sentence or a name each.
    refs: groups of examples that show it, such as two equal images.
    cause: a further sentence on why, with a space before it.
  """

  kind: str
  details: tuple[str, ...]
  refs: tuple[tuple[example_loader.ExampleRef, ...], ...] = ()
  cause: str = ''

  @property
  def level(self) -> str:
    """ERROR, WARNING or NOTE."""
    return KINDS[self.kind][0]

  @property
  def meaning(self) -> str:
    """What is wrong, and what to do."""
    return KINDS[self.kind][1] + self.cause


def collect_findings(
  scans: Sequence[scan.ExampleScan],
  issues: Sequence[example_loader.Issue],
  splits: Mapping[str, scan.SplitStatistics],
  config: Any,
  dataset: datasets.Dataset,
) -> tuple[Finding, ...]:
  """Returns what is wrong or worth a word, in the order of KINDS.

  Args:
    scans: of the examples of both splits.
    issues: of the splits as such; see `load.list_examples`.
    splits: the scans by split.
    config: the experiment; see `training_checks.find_issues`.
    dataset: its data set.
  """
  train = splits[config.data.train_split]
  info = dataset.info
  found = [
    *_issue_findings(
      scans, (*issues, *training_checks.find_issues(train, config, dataset))
    ),
    *_palette_findings(scans),
    *_label_findings(splits, info),
    *_class_findings(train, info),
    *_crop_findings(train, compose.compose_known_ops(config.data.augment)),
    *_duplicate_findings(scans),
  ]
  if len(splits) > 1:
    found += _lookalike_findings(
      train.scans, splits[config.data.eval_split].scans
    )
  if any(
    one.kind in _UNANNOTATED_KINDS for one in found
  ) and _ignores_unannotated_pixels(config.data):
    found = [
      dataclasses.replace(one, cause=_UNANNOTATED_HINT)
      if one.kind in _UNANNOTATED_KINDS
      else one
      for one in found
    ]
  return tuple(sorted(found, key=lambda one: list(KINDS).index(one.kind)))


def _ignores_unannotated_pixels(data: Any) -> bool:
  return data.name == 'folder' and folder.ignores_unannotated_pixels(data)


def _issue_findings(
  scans: Sequence[scan.ExampleScan], issues: Sequence[example_loader.Issue]
) -> Iterable[Finding]:
  """Collects the faults of single files by kind."""
  texts: dict[str, list[str]] = {}
  places: dict[str, list[tuple[example_loader.ExampleRef, ...]]] = {}
  # A pool is looked at twice.
  for fault in {(f.kind, f.text): f for f in issues}.values():
    texts.setdefault(fault.kind, []).append(fault.text)
    if fault.ref:
      places.setdefault(fault.kind, []).append((fault.ref,))
  for s in scans:
    for fault in s.issues:
      texts.setdefault(fault.kind, []).append(fault.text)
      places.setdefault(fault.kind, []).append((s.ref,))
  for kind, found in texts.items():
    yield Finding(kind, tuple(found), tuple(places.get(kind, ())))


def _palette_findings(scans: Sequence[scan.ExampleScan]) -> Iterable[Finding]:
  """Tells of palette masks, and of palettes that contradict each other."""
  first: dict[int, tuple[dataset_info.Color, example_loader.ExampleRef]] = {}
  clashes: dict[int, tuple[str, tuple[example_loader.ExampleRef, ...]]] = {}
  for s in scans:
    for value, color in s.palette:
      known, place = first.setdefault(value, (color, s.ref))
      if color != known:
        text = (
          f'{s.ref.mask}: id {value} is {color} here, and {known} in '
          f'{place.mask}'
        )
        clashes.setdefault(value, (text, (place, s.ref)))
  if clashes:
    texts, places = zip(*clashes.values(), strict=True)
    yield Finding('palettes', texts, places)
  with_palette = [s for s in scans if s.palette]
  if with_palette:
    names: Iterable[str] = ()
    if len(with_palette) < len(scans):  # it is no habit of the data set
      names = (s.ref.mask for s in with_palette)
    count = f'{len(with_palette)} of {len(scans)} masks'
    yield Finding('palette', (count, *names))


def _label_findings(
  splits: Mapping[str, scan.SplitStatistics], info: dataset_info.DatasetInfo
) -> Iterable[Finding]:
  """Looks at what the masks of each split are labelled with."""
  texts: dict[str, list[str]] = {}
  empty = [
    s
    for split in splits.values()
    for s in split.scans
    if s.label_counts is not None
    and not s.label_counts[: info.num_classes].any()
    and s.label_counts[dataset_info.IGNORE]
  ]
  if empty:
    yield Finding(
      'unlabelled',
      tuple(s.ref.mask or s.ref.image for s in empty),
      tuple((s.ref,) for s in empty),
    )
  for name, split in splits.items():
    if not split.label_counts.any():
      continue
    classes = split.label_counts[: info.num_classes]
    absent = [info.class_names[i] for i in np.flatnonzero(classes == 0)]
    if not classes.any():
      texts.setdefault('blank', []).append(f'{name}: all pixels are ignored')
    if absent:
      texts.setdefault('absent', []).append(f'{name}: {", ".join(absent)}')
    if split.ignored_share > 0.5:
      texts.setdefault('ignored', []).append(
        f'{name}: {split.ignored_share:.0%} of the pixels'
      )
  for kind, lines in texts.items():
    yield Finding(kind, tuple(lines))


def _class_findings(
  train: scan.SplitStatistics, info: dataset_info.DatasetInfo
) -> Iterable[Finding]:
  """Looks at whether the training masks tell anything apart."""
  present = np.flatnonzero(train.label_counts[: info.num_classes]).tolist()
  if train.label_counts.any() and len(present) < 2 <= info.num_classes:
    names = ', '.join(info.class_names[i] for i in present) or 'none'
    hint = ''
    if (
      train.label_counts[dataset_info.IGNORE]
      and info.ignore_label == dataset_info.IGNORE
    ):
      hint = (
        '; the value 255 is the ignore label: if it is meant as a class, write '
        'that class as 1'
      )
    yield Finding('one_class', (f'labelled: {names}{hint}',))


def _crop_findings(
  train: scan.SplitStatistics, ops: compose.Compose
) -> Iterable[Finding]:
  """Looks at what training crops would hold."""
  if train.empty_crop_share >= _EMPTY_WARNING_SHARE:
    worst = sorted(train.scans, key=lambda s: -s.empty_crop_share)
    worst = [s for s in worst if s.empty_crop_share >= _EMPTY_WARNING_SHARE]
    yield Finding(
      'empty_crops'
      if train.empty_crop_share >= _EMPTY_ERROR_SHARE
      else 'some_empty_crops',
      (
        f'{train.empty_crop_share:.1%} of the crops; by image:',
        *(
          f'{s.ref.mask or s.ref.image}: {s.empty_crop_share:.0%}'
          for s in worst
        ),
      ),
      tuple((s.ref,) for s in worst),
    )
  sizes, counts = np.unique(train.sizes, axis=0, return_counts=True)
  small = sum(
    count
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)
    if _is_padded(scan.crop_windows(ops, (size[0], size[1])), size)
  )
  if small > 0.5 * len(train.sizes):
    yield Finding('padded', (f'{small} of {len(train.sizes)} training images',))


def _is_padded(windows: Sequence[tuple[int, int]], size: Sequence[int]) -> bool:
  """Returns whether the smallest of the windows is larger than the image."""
  least = np.min(windows, axis=0) if windows else 0
  return bool(np.any(np.less(size, least)))


def _display_name(ref: example_loader.ExampleRef) -> str:
  return ref.image if ref.mask else f'{ref.split}/{ref.image}'


def _duplicate_findings(scans: Sequence[scan.ExampleScan]) -> Iterable[Finding]:
  """Finds images of equal pixels, within a split and across splits."""
  groups: dict[bytes, list[example_loader.ExampleRef]] = {}
  for s in scans:
    if s.digest:
      groups.setdefault(s.digest, []).append(s.ref)
  copies = [tuple(group) for group in groups.values() if len(group) > 1]
  for kind, leaks in (('leak', True), ('repeated', False)):
    found = [g for g in copies if (len({p.split for p in g}) > 1) == leaks]
    if found:
      yield Finding(
        kind,
        tuple(' = '.join(map(_display_name, g)) for g in found),
        tuple(found),
      )


def _lookalike_findings(
  train: Sequence[scan.ExampleScan], evaluation: Sequence[scan.ExampleScan]
) -> list[Finding]:
  """Finds images of two splits that look alike without being equal."""
  train = [s for s in train if s.perceptual_hash]
  evaluation = [s for s in evaluation if s.perceptual_hash]
  if not train or not evaluation:
    return []
  looks = [
    np.frombuffer(b''.join(s.perceptual_hash for s in side), np.uint64).reshape(
      -1, 4
    )
    for side in (train, evaluation)
  ]
  digests = {s.digest for s in train}
  found = []
  for bits, s in zip(looks[1], evaluation, strict=True):
    if s.digest in digests:
      continue  # equal, which is worse
    distance = np.bitwise_count(looks[0] ^ bits).sum(axis=1)
    nearest = int(distance.argmin())
    if distance[nearest] <= _MAX_HASH_DISTANCE:
      found.append((int(distance[nearest]), train[nearest].ref, s.ref))
  if not found:
    return []
  found.sort()
  return [
    Finding(
      'alike',
      tuple(
        f'{_display_name(a)} ~ {_display_name(b)} ({d} bits of 256)'
        for d, a, b in found
      ),
      tuple((a, b) for _, a, b in found),
    )
  ]
