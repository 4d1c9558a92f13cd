"""Pairs each image with its annotation file, by a list or by file stems."""

import os
import pathlib
from typing import NamedTuple

from deeplab.data import image_format
from deeplab.data import text_files
from deeplab.data.formats import fields

LABEL_SUFFIXES = ('.png', '.bmp', '.tif', '.tiff', '.json')

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
  base: pathlib.Path, split: str
) -> tuple[tuple[Pair, ...], list[PairIssue]]:
  """Pairs the files of a split.

  The files are those of the list ROOT/SPLIT.txt, or of the folders SPLIT/images
  and SPLIT/labels, or of a folder SPLIT with labelme's JSON files beside the
  images; the first of these that exists.

  Args:
    base: the root folder.
    split: name of the split.

  Returns:
    The (image, annotation) files, sorted, and an issue for each file without a
    partner and for each malformed line.
  """
  listing, folder = base / f'{split}.txt', base / split
  if listing.is_file():
    pairs, issues = _read_list(base, listing)
  elif (folder / 'images').is_dir() and (folder / 'labels').is_dir():
    pairs, issues = _pair_by_stem(folder / 'images', folder / 'labels')
  elif any(folder.glob('*.json')):
    pairs, issues = _pair_by_stem(folder, folder, ('.json',))
  else:
    text = (
      f'{base}: split {split!r} is missing; make {split}/images and '
      f'{split}/labels there, a list file {split}.txt, a COCO file '
      f'{split}.json or a CVAT file {split}.xml; or have one folder of pairs '
      'split at random by --config.data.pool=FOLDER'
    )
    return (), [PairIssue(text)]
  return tuple(sorted(pairs)), issues


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
      text = (
        f'{listing}: line {number} is not `image label`: '
        f'{fields.describe(line)}; put a tab between names that have spaces'
      )
      issues.append(PairIssue(text))
      continue
    image, mask = base / names[0].strip(), base / names[1].strip()
    missing = [path for path in (image, mask) if not os.path.isfile(path)]
    for path in missing:
      text = f'{path}: no such file, but line {number} of {listing} names it'
      issues.append(PairIssue(text, (image, mask)))
    if not missing:
      pairs.append((image, mask))
  return pairs, issues


def _index_by_stem(
  folder: pathlib.Path, suffixes: tuple[str, ...]
) -> tuple[dict[str, pathlib.Path], list[PairIssue]]:
  """Returns the files of a folder by stem, and an issue for each duplicate."""
  files: dict[str, pathlib.Path] = {}
  issues = []
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() not in suffixes or path.name.startswith('.'):
      continue
    if path.stem in files:
      text = f'{path}: {files[path.stem].name} has the same stem; remove one'
      issues.append(PairIssue(text))
    else:
      files[path.stem] = path
  return files, issues


def _pair_by_stem(
  images_folder: pathlib.Path,
  labels_folder: pathlib.Path,
  suffixes: tuple[str, ...] = LABEL_SUFFIXES,
) -> tuple[list[Pair], list[PairIssue]]:
  """Pairs the files of two folders by stem; returns pairs and issues."""
  images, issues = _index_by_stem(
    images_folder, image_format.IMAGE_AND_ARRAY_SUFFIXES
  )
  masks, mask_issues = _index_by_stem(labels_folder, suffixes)
  issues += mask_issues
  if images_folder != labels_folder:
    # A JPEG mask is paired too, so that its reader can reject it by name.
    jpegs, _ = _index_by_stem(labels_folder, ('.jpg', '.jpeg'))
    masks = {k: path for k, path in jpegs.items() if k in images} | masks
  for stem in sorted(images.keys() ^ masks.keys()):
    image = images.get(stem, images_folder / stem)
    mask = masks.get(stem, labels_folder / f'{stem}{suffixes[0]}')
    if stem in images:
      text = f'{image}: image without a mask; add {mask} or remove the image'
    else:
      text = (
        f'{mask}: mask without an image; add an image of stem {stem!r} to '
        f'{images_folder} or remove the mask'
      )
    issues.append(PairIssue(text, (image, mask)))
  stems = sorted(images.keys() & masks.keys())
  return [(images[stem], masks[stem]) for stem in stems], issues
