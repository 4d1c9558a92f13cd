"""Pairs each image with its annotation file, by a list or by file stems."""

import collections
from collections.abc import Iterable
import os
import pathlib
from typing import NamedTuple

from deeplab import text
from deeplab.data import image_format
from deeplab.data.formats import fields
from deeplab.data.formats import named_files
from deeplab.data.preparation import errors
from deeplab.files import text_files

# A JPEG is paired, too, so that its reader can reject it by name.
LABEL_SUFFIXES = (*image_format.IMAGE_AND_ARRAY_SUFFIXES, '.json')

# Names of the folders of images and of annotations, in SPLIT or above it.
_IMAGE_FOLDERS = ('images', 'img_dir', 'imgs', 'image', 'img')
_LABEL_FOLDERS = (
  *('labels', 'masks', 'annotations', 'ann_dir', 'label', 'mask'),
  *('annotation', 'ground_truth', 'gt'),
)
# Endings of the stems of images and of masks that are no part of the name that
# both share; of several kinds of mask the first is taken.
_IMAGE_ENDINGS = ('', '_leftImg8bit', '_sat', '_image', '_img')
_MASK_ENDINGS = (
  *('', '_gtFine_labelIds', '_labelIds', '_gtFine_labelTrainIds', '_gtFine'),
  *('_labelTrainIds', '_mask', '_masks', '_label', '_labels'),
  *('_segmentation', '_seg', '_gt', '-mask', '-label', '_L'),
)

Pair = tuple[pathlib.Path, pathlib.Path]


class PairIssue(NamedTuple):
  """A file that could not be paired.

  Attributes:
    text: message that begins with the file.
    pair: the expected (image, annotation) files, one of which is missing; None
      for other issues.
  """

  text: str
  pair: Pair | None = None


def find_pairs(
  base: pathlib.Path,
  split: str,
  folders: tuple[pathlib.Path, pathlib.Path] | None = None,
) -> tuple[tuple[Pair, ...], list[PairIssue]]:
  """Pairs the files of a split.

  The files are those of the folders that are given, or of the list
  ROOT/SPLIT.txt, or of a folder of images and a folder of annotations in SPLIT
  or with subfolders SPLIT (such as SPLIT/images and SPLIT/labels, or
  images/SPLIT and masks/SPLIT), or of a folder SPLIT with labelme's JSON files
  or masks NAME_mask.png beside the images; the first of these that exists.

  Args:
    base: the root folder.
    split: name of the split.
    folders: of the images and of the annotations; None to search for them.

  Returns:
    The (image, annotation) files, sorted, and an issue for each file without a
    partner and for each malformed line. What is left out on purpose is told by
    `errors.note`.
  """
  listing, folder = base / f'{split}.txt', base / split
  folders = folders or _find_folders(base, split)
  if listing.is_file() and (folders is None or base in folders[0].parents):
    pairs, issues = _read_list(base, listing)
  elif folders:
    pairs, issues = _pair_by_stem(*folders)
  elif folder.is_dir() and any(
    path.suffix.lower() == '.json' for path in named_files.walk(folder)
  ):
    pairs, issues = _pair_by_stem(folder, folder, ('.json',))
  elif folder.is_dir() and _split_mixed(named_files.walk(folder))[1]:
    pairs, issues = _pair_by_stem(folder, folder)
  else:
    return (), [PairIssue(_missing_split_text(base, split))]
  return tuple(sorted(pairs)), issues


def _find_folders(
  base: pathlib.Path, split: str
) -> tuple[pathlib.Path, pathlib.Path] | None:
  """Returns the folders of images and of annotations, if their names tell."""
  for images in _IMAGE_FOLDERS:
    for labels in _LABEL_FOLDERS:
      for pair in (
        (base / split / images, base / split / labels),
        (base / images / split, base / labels / split),
      ):
        if pair[0].is_dir() and pair[1].is_dir():
          return pair
  return None


def _missing_split_text(base: pathlib.Path, split: str) -> str:
  """Returns what to do about a split without files."""
  guess = guess_folders(base)
  if guess:
    images, labels = guess
    return (
      f'{base}: split {split!r} is missing, but {images} and {labels} hold '
      f'images and masks of the same names: give --config.data.images={images} '
      f'--config.data.labels={labels}, which splits them at random'
    )
  return (
    f'{base}: split {split!r} is missing; make {split}/images and '
    f'{split}/labels there, a list file {split}.txt, a COCO file '
    f'{split}.json or a CVAT file {split}.xml; or name two folders that are '
    'split at random, by --config.data.images=FOLDER '
    '--config.data.labels=FOLDER, or one folder that holds both by '
    '--config.data.pool=FOLDER'
  )


def guess_folders(base: pathlib.Path) -> tuple[str, str] | None:
  """Returns two folders of the root that hold images and their masks.

  Args:
    base: the root folder.

  Returns:
    Their names; None unless exactly two folders have files of the same names.
  """
  stems: dict[str, tuple[set[str], set[str]]] = {}
  for folder in sorted(path for path in base.iterdir() if path.is_dir()):
    files = [
      path
      for path in named_files.walk(folder)
      if path.suffix.lower() in LABEL_SUFFIXES
    ]
    if files and not folder.name.startswith('.'):
      names = {
        path.stem.removesuffix(_ending_of(path.stem, _MASK_ENDINGS))
        for path in files
      }
      stems[folder.name] = names, {path.suffix.lower() for path in files}
  if len(stems) != 2:
    return None
  (one, (names, kinds)), (other, (other_names, other_kinds)) = stems.items()
  if not names & other_names:
    return None
  lossy = {'.jpg', '.jpeg', '.jfif'}
  words = ('mask', 'label', 'truth', 'gt', 'annot', 'seg')
  score = [
    (not lossy & suffixes) + any(word in name.lower() for word in words)
    for name, suffixes in ((one, kinds), (other, other_kinds))
  ]
  if score[0] == score[1]:
    return None
  return (one, other) if score[0] < score[1] else (other, one)


def _read_list(
  base: pathlib.Path, listing: pathlib.Path
) -> tuple[list[Pair], list[PairIssue]]:
  """Reads a list file; returns pairs and issues."""
  pairs, issues = [], []
  lines = text_files.read_text(listing).splitlines()
  for number, line in enumerate(lines, 1):
    names = line.strip().split('\t') if '\t' in line else line.split()
    if not names:
      continue
    if len(names) != 2:
      message = (
        f'{listing}: line {number} is not `image label`: '
        f'{fields.describe(line)}; put a tab between names that have spaces'
      )
      issues.append(PairIssue(message))
      continue
    found = [_find_listed(name.strip(), base, listing) for name in names]
    image, mask = (
      path or base / name.strip().replace('\\', '/')
      for path, name in zip(found, names, strict=True)
    )
    for path, there in zip((image, mask), found, strict=True):
      if there is None:
        message = (
          f'{path}: no such file, but line {number} of {listing} names it'
        )
        issues.append(PairIssue(message, (image, mask)))
    if None not in found:
      pairs.append((image, mask))
  return pairs, issues


def _find_listed(
  name: str, base: pathlib.Path, listing: pathlib.Path
) -> pathlib.Path | None:
  """Returns the file that the user's own list names, which may lie anywhere."""
  path = base / name
  return (
    path if os.path.isfile(path) else named_files.find(name, (base,), listing)
  )


def _pair_by_stem(
  images_folder: pathlib.Path,
  labels_folder: pathlib.Path,
  suffixes: tuple[str, ...] = LABEL_SUFFIXES,
) -> tuple[list[Pair], list[PairIssue]]:
  """Pairs the files of two folders, and of the same folders below them.

  Args:
    images_folder: the folder of the images.
    labels_folder: the folder of the annotations; it may be the same.
    suffixes: of annotations.

  Returns:
    Pairs and issues.
  """
  image_suffixes = image_format.IMAGE_AND_ARRAY_SUFFIXES
  image_paths, mask_paths = (
    named_files.walk(folder) for folder in (images_folder, labels_folder)
  )
  if images_folder != labels_folder:
    _note_left_out(images_folder, image_paths, image_suffixes)
    _note_left_out(labels_folder, mask_paths, suffixes)
  elif suffixes == LABEL_SUFFIXES:
    image_paths, mask_paths = _split_mixed(image_paths)
  images, issues = _index(images_folder, image_paths, image_suffixes)
  masks, mask_issues = _index(labels_folder, mask_paths, suffixes)
  issues += mask_issues
  by_image = _match(images, masks, labels_folder)
  for key in sorted(images.keys() - by_image.keys()):
    mask = labels_folder / f'{key}{".json" if len(suffixes) == 1 else ".png"}'
    message = (
      f'{images[key]}: image without a mask; add {mask} or remove the image'
    )
    issues.append(PairIssue(message, (images[key], mask)))
  for key in sorted(masks.keys() - set(by_image.values())):
    message = (
      f'{masks[key]}: mask without an image; add an image of stem {key!r} to '
      f'{images_folder} or remove the mask'
    )
    issues.append(PairIssue(message, (images_folder / key, masks[key])))
  return [(images[key], masks[by_image[key]]) for key in by_image], issues


def _match(
  images: dict[str, pathlib.Path],
  masks: dict[str, pathlib.Path],
  labels_folder: pathlib.Path,
) -> dict[str, str]:
  """Returns the key of the mask by that of its image.

  Masks of other kinds, such as the colored ones of Cityscapes, are taken out of
  `masks` and noted.
  """
  if images.keys() == masks.keys():
    return {key: key for key in images}
  endings = max(
    ((i, m) for i in _IMAGE_ENDINGS for m in _MASK_ENDINGS),
    key=lambda pair: (
      sum(_mask_key(key, *pair) in masks for key in images),
      pair == ('', ''),
    ),
  )
  pairs = {
    key: _mask_key(key, *endings)
    for key in images
    if _mask_key(key, *endings) in masks
  }
  if endings == ('', '') or not pairs:
    return pairs
  image_name, mask_name = (f'NAME{ending}' for ending in endings)
  errors.note(
    f'{labels_folder}: the mask of {image_name} is {mask_name} '
    f'({text.plural(len(pairs), "pair")})'
  )
  used = set(pairs.values())
  others = [
    key
    for key in masks.keys() - used
    if any(key.startswith(k.removesuffix(endings[0])) for k in pairs)
  ]
  for key in others:
    del masks[key]
  if others:
    errors.note(
      f'{labels_folder}: {text.plural(len(others), "file")} of other kinds '
      f'left out, such as {min(others)}'
    )
  return pairs


def _mask_key(image_key: str, image_ending: str, mask_ending: str) -> str:
  """Returns the key of the mask of an image; '' if it has another ending."""
  if not image_key.endswith(image_ending):
    return ''
  return image_key.removesuffix(image_ending) + mask_ending


def _ending_of(stem: str, endings: Iterable[str]) -> str:
  """Returns the longest of the endings that a stem has; '' for none."""
  return max((e for e in endings if stem.endswith(e)), key=len, default='')


def _split_mixed(
  paths: list[pathlib.Path],
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """Divides the files of one folder into images and masks NAME_mask.png."""
  masks = [
    path
    for path in paths
    if path.suffix.lower() in LABEL_SUFFIXES
    and _ending_of(path.stem, _MASK_ENDINGS)
  ]
  chosen = set(masks)
  return [path for path in paths if path not in chosen], masks


def _index(
  folder: pathlib.Path, paths: list[pathlib.Path], suffixes: tuple[str, ...]
) -> tuple[dict[str, pathlib.Path], list[PairIssue]]:
  """Returns files by path below the folder without the suffix, and issues."""
  files: dict[str, pathlib.Path] = {}
  issues = []
  # A JPEG beside another file of that stem is a preview of it.
  order = {'.jpg': 1, '.jpeg': 1} if '.json' in suffixes else {}
  for path in sorted(paths, key=lambda p: (order.get(p.suffix.lower(), 0), p)):
    if path.suffix.lower() not in suffixes:
      continue
    key = named_files.normalize(
      path.relative_to(folder).with_suffix('').as_posix()
    )
    if key not in files:
      files[key] = path
    elif path.suffix.lower() not in order:
      message = f'{path}: {files[key].name} has the same stem; remove one'
      issues.append(PairIssue(message))
  return files, issues


def _note_left_out(
  folder: pathlib.Path, paths: list[pathlib.Path], suffixes: tuple[str, ...]
) -> None:
  """Notes how many files of which endings are neither images nor masks."""
  counts = collections.Counter(
    path.suffix.lower() or 'no ending'
    for path in paths
    if path.suffix.lower() not in suffixes
  )
  if counts:
    listed = ', '.join(
      f'{n} of {suffix}' for suffix, n in sorted(counts.items())
    )
    errors.note(
      f'{folder}: {text.plural(counts.total(), "file")} left out ({listed}); '
      f'files of {", ".join(suffixes)} are read'
    )
