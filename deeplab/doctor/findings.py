"""Finds what is wrong, or remarkable, about a data set."""

import collections
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

# By kind of finding: the level, and a sentence on what is wrong and what to do.
# Findings are reported in this order.
KINDS: dict[str, tuple[str, str]] = {
  'files': (ERROR, 'A split is incomplete: add, remove or correct files.'),
  'unreadable': (ERROR, 'Files cannot be read: replace or remove them.'),
  'mismatch': (
    ERROR,
    'Masks differ in size from their images: replace one of the two.',
  ),
  'value': (
    ERROR,
    'Masks contain values that belong to no class: correct the masks, or '
    'config.data.num_classes and config.data.ignore_label.',
  ),
  'color': (
    ERROR,
    'Masks contain colors that belong to no class: correct the masks, or '
    'config.data.color_map.',
  ),
  'lossy': (
    ERROR,
    'Masks are files whose compression changes ids, such as JPEG: save them as '
    'PNG.',
  ),
  'palettes': (
    ERROR,
    'Palette masks give one id several colors, so the id may stand for '
    'several classes (the index is read, not the color): save all masks with '
    'one palette.',
  ),
  'turned_both': (
    ERROR,
    'Images have an EXIF orientation, and masks of them were painted on the '
    'stored pixels, as the sizes of some tell: save the images upright, '
    'without the tag, because the size does not tell it of the masks below.',
  ),
  'units': (
    ERROR,
    'config.data.mean and config.data.std are in other units than the images: '
    'give those of the images.',
  ),
  'one_class': (
    ERROR,
    'The training masks contain fewer than two classes: there is nothing to '
    'learn. Correct the masks, or config.data.num_classes and '
    'config.data.ignore_label.',
  ),
  'leak': (
    ERROR,
    'The same image is in both splits, so evaluation scores memorized images: '
    'remove one.',
  ),
  'blank': (
    ERROR,
    'A split has no labelled pixel, so every score on it is NaN: label '
    'its masks, or correct config.data.ignore_label.',
  ),
  'batch': (
    ERROR,
    'The training split and the config make no batch or no step: change '
    'config.batch_size or the fields named below, or add examples.',
  ),
  'sizes': (
    ERROR,
    'Training images differ in size after augmentation and cannot be stacked '
    'to a batch: end config.data.augment.ops with random_crop or stretch.',
  ),
  'augment': (
    ERROR,
    'The augmentation cannot be applied to the images: correct '
    'config.data.augment.',
  ),
  'weights': (
    ERROR,
    'The class weights do not fit the data: correct config.loss.class_weights '
    'or config.loss.balance.',
  ),
  'empty_crops': (
    ERROR,
    'Most training crops would contain no labelled pixel: enlarge '
    'config.data.augment.random_crop.size, or label more.',
  ),
  'some_empty_crops': (
    WARNING,
    'Some training crops would contain no labelled pixel, and teach nothing.',
  ),
  'turned': (
    WARNING,
    'Images have an EXIF orientation and are turned upright. The size of their '
    'masks does not tell whether they were painted upright, which is assumed: '
    'look at them in the report (--output=report.html).',
  ),
  'units_off': (
    WARNING,
    'config.data.mean and config.data.std are far from those of the images.',
  ),
  'mixed': (
    WARNING,
    'Some masks are read by the colors of the classes, others by id: make sure '
    'that both mean the same classes.',
  ),
  'unlabelled': (WARNING, 'Masks have no labelled pixel.'),
  'absent': (WARNING, 'Some classes have no pixel in a split.'),
  'ignored': (WARNING, 'More than half of the pixels of a split are ignored.'),
  'repeated': (WARNING, 'Images occur more than once in one split.'),
  'alike': (
    WARNING,
    'Images of the two splits look alike: check whether they show one scene.',
  ),
  'padded': (
    WARNING,
    'Most images are smaller than the crop at every scale, and are padded.',
  ),
  'noted': (NOTE, 'Files are left out, or read otherwise than they say.'),
  'upright': (
    NOTE,
    'Images have an EXIF orientation: they are turned upright, in training and '
    'prediction alike.',
  ),
  'palette': (
    NOTE,
    'Masks are palette images: the indices are read as ids, the colors are '
    'not read.',
  ),
}

# A likely cause of these kinds where annotations are drawn, and its remedy.
_UNANNOTATED_HINT = (
  ' Pixels that no annotation covers are ignored: if they are a class, '
  'add the name `background` to classes.txt, and 1 to config.data.num_classes.'
)
_UNANNOTATED_KINDS = (
  *('one_class', 'blank', 'empty_crops', 'some_empty_crops'),
  *('unlabelled', 'ignored'),
)

# The most bits, of 256, in which the perceptual hashes of two images that look
# alike differ. JPEG of low quality, half the size and another brightness change
# up to 25 bits of a street scene; two scenes of a street differ in 70 or more.
_MAX_HASH_DISTANCE = 24
# Limits of the distance of the means, in `config.data.std`, and of the ratio of
# the standard deviations: outside, values are wrong. Pictures of any subject
# have means within 2 and ratios of 0.25 to 1.5.
_UNIT_LIMITS = {ERROR: (20.0, 0.02, 20.0), WARNING: (2.5, 0.2, 3.0)}
# The shares of crops without a labelled pixel from which a warning and an error
# are reported.
_EMPTY_WARNING_SHARE, _EMPTY_ERROR_SHARE = 0.01, 0.5


@dataclasses.dataclass(frozen=True)
class Finding:
  """A finding of one kind, with all examples of it.

  Attributes:
    kind: a key of KINDS.
    details: one line per case: a sentence or the name of a file.
    refs: groups of examples that show it, such as two equal images.
    cause: a sentence on the likely cause, with a space before it; '' without.
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
    """One or more sentences on what is wrong and what to do."""
    return KINDS[self.kind][1] + self.cause


def collect_findings(
  scans: Sequence[scan.ExampleScan],
  issues: Sequence[example_loader.Issue],
  splits: Mapping[str, scan.SplitStatistics],
  config: Any,
  dataset: datasets.Dataset,
) -> tuple[Finding, ...]:
  """Returns all findings, in the order of KINDS.

  Args:
    scans: scans of the examples of both splits.
    issues: issues that `example_loader.list_examples` found in listing them.
    splits: statistics by split.
    config: the config; reads `data`, `loss`, and the fields that say how many
      steps a run takes.
    dataset: its data set.
  """
  train = splits[config.data.train_split]
  info = dataset.info
  found = [
    *_issue_findings(
      scans, (*issues, *training_checks.find_issues(train, config, dataset))
    ),
    *_palette_findings(scans),
    *_orientation_findings(scans),
    *_unit_findings(train, config.data),
    *_label_findings(splits, info),
    *_class_findings(train, info),
    *_crop_findings(train, compose.compose_known_ops(config.data.augment)),
    *_duplicate_findings(scans),
  ]
  if len(splits) > 1:
    found += _lookalike_findings(
      train.scans, splits[config.data.eval_split].scans
    )
  # Asked only if needed: it reads the annotation files.
  if any(
    finding.kind in _UNANNOTATED_KINDS for finding in found
  ) and _ignores_unannotated_pixels(config.data):
    found = [
      dataclasses.replace(finding, cause=_UNANNOTATED_HINT)
      if finding.kind in _UNANNOTATED_KINDS
      else finding
      for finding in found
    ]
  order = list(KINDS)
  return tuple(sorted(found, key=lambda finding: order.index(finding.kind)))


def _ignores_unannotated_pixels(data: Any) -> bool:
  """Returns True if pixels that no annotation covers get no label."""
  return data.name == 'folder' and folder.ignores_unannotated_pixels(data)


def _issue_findings(
  scans: Sequence[scan.ExampleScan], issues: Sequence[example_loader.Issue]
) -> Iterable[Finding]:
  """Groups issues by kind, those of whole splits first."""
  texts: dict[str, list[str]] = {}
  refs: dict[str, list[tuple[example_loader.ExampleRef, ...]]] = {}
  # Splits that are drawn from one folder (`pool`) list its issues twice.
  for issue in {(i.kind, i.text): i for i in issues}.values():
    texts.setdefault(issue.kind, []).append(issue.text)
    if issue.ref:
      refs.setdefault(issue.kind, []).append((issue.ref,))
  for s in scans:
    for issue in s.issues:
      texts.setdefault(issue.kind, []).append(issue.text)
      refs.setdefault(issue.kind, []).append((s.ref,))
  for kind, details in texts.items():
    yield Finding(kind, tuple(details), tuple(refs.get(kind, ())))


def _palette_findings(scans: Sequence[scan.ExampleScan]) -> Iterable[Finding]:
  """Finds palette masks, and palettes that give one id several colors."""
  first: dict[int, tuple[dataset_info.Color, example_loader.ExampleRef]] = {}
  clashes: dict[int, tuple[str, tuple[example_loader.ExampleRef, ...]]] = {}
  for s in scans:
    for value, color in s.palette:
      first_color, first_ref = first.setdefault(value, (color, s.ref))
      if color != first_color:
        text = (
          f'{s.ref.mask}: id {value} is {color} here, and {first_color} in '
          f'{first_ref.mask}'
        )
        clashes.setdefault(value, (text, (first_ref, s.ref)))
  if clashes:
    texts, refs = zip(*clashes.values(), strict=True)
    yield Finding('palettes', texts, refs)
  by_color = [s for s in scans if s.by_color]
  by_id = [s for s in scans if s.by_color is False]
  if by_color and by_id:
    rarer = min(by_color, by_id, key=len)
    count = f'{len(by_color)} masks by color, {len(by_id)} by id; the rarer:'
    yield Finding(
      'mixed',
      (count, *(s.ref.mask for s in rarer)),
      tuple((s.ref,) for s in rarer),
    )
  with_palette = [s for s in scans if s.palette]
  if with_palette:
    names: Iterable[str] = ()
    # Named only if some masks are no palette images, which may be a mistake.
    if len(with_palette) < len(scans):
      names = (s.ref.mask for s in with_palette)
    count = f'{len(with_palette)} of {len(scans)} masks'
    yield Finding('palette', (count, *names))


def _orientation_findings(
  scans: Sequence[scan.ExampleScan],
) -> Iterable[Finding]:
  """Finds images with an EXIF orientation, and masks that may be turned."""
  turned = [s for s in scans if s.orientation != 1]
  if not turned:
    return
  counts = collections.Counter(s.orientation for s in turned)
  yield Finding(
    'upright',
    (
      f'{len(turned)} of {len(scans)} images',
      *(f'orientation {i}: {n}' for i, n in sorted(counts.items())),
    ),
    tuple((s.ref,) for s in turned),
  )
  stored = [s for s in turned if s.painted_on_stored]
  # The size tells where the tag exchanges height and width of a mask file.
  unclear = [
    s
    for s in turned
    if s.ref.mask and s.size and (s.orientation < 5 or s.size[0] == s.size[1])
  ]
  if unclear:
    yield Finding(
      'turned_both' if stored else 'turned',
      tuple(f'{s.ref.mask} (orientation {s.orientation})' for s in unclear),
      tuple((s.ref,) for s in unclear),
    )


def _unit_findings(train: scan.SplitStatistics, data: Any) -> Iterable[Finding]:
  """Compares `config.data.mean` and `std` with those of the images."""
  level = rate_normalization(train, data)
  if level:
    measured = format_statistics(train)
    mean, std = (tuple(map(float, x)) for x in (data.mean, data.std))
    yield Finding(
      'units' if level == ERROR else 'units_off',
      (
        f'the training images have {measured}',
        f'the config has mean {mean}, std {std}',
      ),
    )


def rate_normalization(train: scan.SplitStatistics, data: Any) -> str:
  """Returns ERROR or WARNING if mean and std do not fit the images, else ''.

  ERROR stands for other units, such as images of 16 bits and values for 8.

  Args:
    train: statistics of the training split.
    data: `config.data`; reads `mean` and `std`.
  """
  if len(train.channel_mean) != len(data.mean):
    return ''
  mean, std = np.asarray(data.mean, float), np.asarray(data.std, float)
  distance = float(np.max(abs(train.channel_mean - mean) / std))
  ratios = train.channel_std / std
  ratios = ratios[ratios > 0]  # 0: blank images
  least, most = float(ratios.min(initial=1)), float(ratios.max(initial=1))
  for level, (max_distance, min_ratio, max_ratio) in _UNIT_LIMITS.items():
    if distance > max_distance or least < min_ratio or most > max_ratio:
      return level
  return ''


def format_statistics(train: scan.SplitStatistics) -> str:
  """Returns 'mean (...), std (...)' of the images, of four digits."""
  mean, std = (
    ', '.join(f'{value:.4g}' for value in values)
    for values in (train.channel_mean, train.channel_std)
  )
  return f'mean ({mean}), std ({std})'


def _label_findings(
  splits: Mapping[str, scan.SplitStatistics], info: dataset_info.DatasetInfo
) -> Iterable[Finding]:
  """Finds masks without a label, absent classes and many ignored pixels."""
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
  """Finds training masks that contain fewer than two classes."""
  present = np.flatnonzero(train.label_counts[: info.num_classes]).tolist()
  if train.label_counts.any() and len(present) < 2 <= info.num_classes:
    names = ', '.join(info.class_names[i] for i in present) or 'none'
    hint = ''
    if (
      train.label_counts[dataset_info.IGNORE]
      and info.ignore_label == dataset_info.IGNORE
    ):
      hint = (
        '; the value 255 is the ignore label: if it is meant as a class, give '
        '--config.data.id_map=0:0,255:1'
      )
    yield Finding('one_class', (f'labelled: {names}{hint}',))


def _crop_findings(
  train: scan.SplitStatistics, ops: compose.Compose
) -> Iterable[Finding]:
  """Finds training crops without a label, and images smaller than the crop."""
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
  """Returns True if the image is smaller than every crop window on a side."""
  smallest = np.min(windows, axis=0) if windows else 0
  return bool(np.any(np.less(size, smallest)))


def _display_name(ref: example_loader.ExampleRef) -> str:
  return ref.image if ref.mask else f'{ref.split}/{ref.image}'


def _duplicate_findings(scans: Sequence[scan.ExampleScan]) -> Iterable[Finding]:
  """Finds images with equal pixels, within a split and across splits."""
  groups: dict[bytes, list[example_loader.ExampleRef]] = {}
  for s in scans:
    if s.digest:
      groups.setdefault(s.digest, []).append(s.ref)
  copies = [tuple(group) for group in groups.values() if len(group) > 1]
  leaks = [g for g in copies if len({ref.split for ref in g}) > 1]
  repeats = [g for g in copies if len({ref.split for ref in g}) == 1]
  for kind, found in (('leak', leaks), ('repeated', repeats)):
    if found:
      yield Finding(
        kind,
        tuple(' = '.join(map(_display_name, group)) for group in found),
        tuple(found),
      )


def _lookalike_findings(
  train: Sequence[scan.ExampleScan], evaluation: Sequence[scan.ExampleScan]
) -> list[Finding]:
  """Finds images of the evaluation split that look like one for training.

  Images with equal pixels are left out; they are leaks.
  """
  train = [s for s in train if s.perceptual_hash]
  evaluation = [s for s in evaluation if s.perceptual_hash]
  if not train or not evaluation:
    return []
  train_hashes, evaluation_hashes = (
    np.frombuffer(
      b''.join(s.perceptual_hash for s in split), np.uint64
    ).reshape(-1, 4)
    for split in (train, evaluation)
  )
  digests = {s.digest for s in train}
  found = []
  for bits, s in zip(evaluation_hashes, evaluation, strict=True):
    if s.digest in digests:
      continue
    distances = np.bitwise_count(train_hashes ^ bits).sum(axis=1)
    nearest = int(distances.argmin())
    if distances[nearest] <= _MAX_HASH_DISTANCE:
      found.append((int(distances[nearest]), train[nearest].ref, s.ref))
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
