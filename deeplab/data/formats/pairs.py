"""Pairs of files, one annotation an image: by a list, or by their stems."""

import pathlib
from typing import NamedTuple

from deeplab.data import image_format

LABEL_SUFFIXES = ('.png', '.bmp', '.tif', '.tiff', '.json')

Pair = tuple[pathlib.Path, pathlib.Path]


class PairIssue(NamedTuple):
  """What keeps files from being pairs.

  Attributes:
    text: a sentence that begins with the file.
    pair: an image and its annotation of which one is missing; None for other
      faults.
  """

  text: str
  pair: Pair | None = None


def find_pairs(
  base: pathlib.Path, split: str
) -> tuple[tuple[Pair, ...], list[PairIssue]]:
  """Returns the files of a list or of folders.

  Args:
    base: the root.
    split: name of the split.

  Returns:
    The (image, annotation) files, sorted, and a fault for each file without a
    partner and each bad line.
  """
  listing, folder = base / f'{split}.txt', base / split
  if listing.is_file():
    pairs, faults = _read_list(base, listing)
  elif (folder / 'images').is_dir() and (folder / 'labels').is_dir():
    pairs, faults = _pair_by_stem(folder / 'images', folder / 'labels')
  elif any(folder.glob('*.json')):
    pairs, faults = _pair_by_stem(folder, folder, ('.json',))
  else:
    text = (
      f'{base}: split {split!r} is missing; make {split}/images and '
      f'{split}/labels there, a list file {split}.txt, or a file {split}.json '
      f"of COCO's form or {split}.xml of CVAT's, or let one folder of pairs be "
      'split at random by --config.data.pool=FOLDER'
    )
    return (), [PairIssue(text)]
  return tuple(sorted(pairs)), faults


def _read_list(
  base: pathlib.Path, listing: pathlib.Path
) -> tuple[list[Pair], list[PairIssue]]:
  """Reads a list file; see `find_pairs`."""
  pairs, faults = [], []
  for number, line in enumerate(listing.read_text('utf-8').splitlines(), 1):
    names = line.strip().split('\t') if '\t' in line else line.split()
    if not names:
      continue
    if len(names) != 2:
      text = (
        f'{listing}: line {number} is not `image label`: {line!r}; put a tab '
        'between names that have spaces'
      )
      faults.append(PairIssue(text))
      continue
    image, mask = base / names[0].strip(), base / names[1].strip()
    missing = [path for path in (image, mask) if not path.is_file()]
    for path in missing:
      text = f'{path}: no such file, but line {number} of {listing} names it'
      faults.append(PairIssue(text, (image, mask)))
    if not missing:
      pairs.append((image, mask))
  return pairs, faults


def _index_by_stem(
  folder: pathlib.Path, suffixes: tuple[str, ...]
) -> tuple[dict[str, pathlib.Path], list[PairIssue]]:
  """Returns the files of a folder by stem, and what is wrong with others."""
  files: dict[str, pathlib.Path] = {}
  faults = []
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() not in suffixes or path.name.startswith('.'):
      continue
    if path.stem in files:
      text = f'{path}: {files[path.stem].name} has the same stem; remove one'
      faults.append(PairIssue(text))
    else:
      files[path.stem] = path
  return files, faults


def _pair_by_stem(
  images_folder: pathlib.Path,
  labels_folder: pathlib.Path,
  suffixes: tuple[str, ...] = LABEL_SUFFIXES,
) -> tuple[list[Pair], list[PairIssue]]:
  """Pairs the files of two folders by stem; see `find_pairs`."""
  images, faults = _index_by_stem(
    images_folder, image_format.IMAGE_AND_ARRAY_SUFFIXES
  )
  masks, more = _index_by_stem(labels_folder, suffixes)
  faults += more
  if images_folder != labels_folder:
    # A JPEG that stands for a mask is paired too, for its reader to refuse.
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
    faults.append(PairIssue(text, (image, mask)))
  stems = sorted(images.keys() & masks.keys())
  return [(images[stem], masks[stem]) for stem in stems], faults
