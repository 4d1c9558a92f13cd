"""Your own images and masks, one folder a split or one list file a split.

Folders: ROOT/SPLIT/images/STEM.* and ROOT/SPLIT/labels/STEM.*, paired by stem.
List files: ROOT/SPLIT.txt with a line `image label` a pair, both relative to
ROOT; a tab between them if names have spaces. A list file comes first.

Masks are index, palette or grey images that hold class ids, or RGB images
whose colours stand in `config.data.color_map` or ROOT/classes.txt.

A fingerprint of the files (names, sizes, times) and of the class facts is part
of the prepared data's name, so an edited mask is prepared anew and never
served stale. What was prepared before an edit stays on disk until removed.
"""

import dataclasses
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data import info as info_lib
from deeplab.data import records

MASK_SUFFIXES = ('.png', '.bmp', '.tif', '.tiff')

Pair = tuple[pathlib.Path, pathlib.Path]


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
  """One split of one folder.

  Attributes:
    pairs: (image, mask) files.
    facts: classes, ignore label and colours.
  """

  pairs: tuple[Pair, ...] = dataclasses.field(default=(), repr=False)
  facts: info_lib.DatasetInfo | None = dataclasses.field(
    default=None, repr=False
  )


class Folder(tfds.core.GeneratorBasedBuilder):
  """Images and masks from a folder of the user's own."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return records.builder_info(self, __doc__)

  def _split_generators(self, dl_manager):
    del dl_manager
    config = self.builder_config
    examples = self._generate_examples(config.pairs, config.facts)
    return {records.SPLIT: examples}

  def _generate_examples(self, pairs, facts):
    pairs = records.progress(pairs, self.builder_config.name)
    for i, (image, mask) in enumerate(pairs):
      yield i, records.example(image, mask, image.stem, facts)


def builder(data: Any, split: str) -> Folder:
  """Returns the builder of one split of `config.data.root`.

  Reads `root`, `data_dir` and what `catalog.info_for` reads.

  Raises:
    ValueError: no such folder or split, an empty split, or an image or a mask
      that has no partner.
  """
  facts = catalog.info_for(data)
  pairs = find_pairs(data.root, split)
  name = records.fingerprint(
    split, (path for pair in pairs for path in pair), facts
  )
  return Folder(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=FolderConfig(name=name, pairs=pairs, facts=facts),
  )


def find_pairs(root: str, split: str) -> tuple[Pair, ...]:
  """Returns the (image, mask) files of a split, sorted by image.

  Raises:
    ValueError: as `builder`.
  """
  pairs, faults = survey(root, split)
  if faults:
    raise ValueError(faults[0])
  return pairs


def survey(root: str, split: str) -> tuple[tuple[Pair, ...], list[str]]:
  """Returns the (image, mask) files of a split, and all that is wrong there.

  Args:
    root: the folder of all splits.
    split: name of the split.

  Returns:
    The pairs that there are, sorted by image, and a sentence for each file
    without a partner, each bad line of a list, or the lack of all files; none
    if the split is whole.

  Raises:
    ValueError: no root is given.
  """
  if not root:
    raise ValueError(
      'config.data.root is empty: give --config.data.root=FOLDER, which holds '
      f'{split}/images and {split}/labels'
    )
  base = pathlib.Path(root).expanduser().resolve()
  listing, folder = base / f'{split}.txt', base / split
  if listing.is_file():
    pairs, faults = _listed(base, listing)
  elif (folder / 'images').is_dir() and (folder / 'labels').is_dir():
    pairs, faults = _matched(folder)
  else:
    return (), [
      f'{base}: split {split!r} is missing; make {split}/images and '
      f'{split}/labels there, or a list file {split}.txt'
    ]
  if not pairs and not faults:
    faults = [
      f'{listing if listing.is_file() else folder}: split {split!r} is empty; '
      'put pairs of images and masks there'
    ]
  return tuple(sorted(pairs)), faults


def _listed(
  base: pathlib.Path, listing: pathlib.Path
) -> tuple[list[Pair], list[str]]:
  """Reads a list file; see `survey`."""
  pairs, faults = [], []
  for number, line in enumerate(listing.read_text('utf-8').splitlines(), 1):
    names = line.strip().split('\t') if '\t' in line else line.split()
    if not names:
      continue
    if len(names) != 2:
      faults.append(
        f'{listing}: line {number} is not `image label`: {line!r}; put a tab '
        'between names that have spaces'
      )
      continue
    image, mask = base / names[0].strip(), base / names[1].strip()
    missing = [path for path in (image, mask) if not path.is_file()]
    faults += [
      f'{path}: no such file, but line {number} of {listing} names it'
      for path in missing
    ]
    if not missing:
      pairs.append((image, mask))
  return pairs, faults


def _by_stem(
  folder: pathlib.Path, suffixes: tuple[str, ...]
) -> tuple[dict[str, pathlib.Path], list[str]]:
  """Returns the files of a folder by stem, and sentences about the others."""
  files: dict[str, pathlib.Path] = {}
  faults = []
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() not in suffixes or path.name.startswith('.'):
      continue
    if path.stem in files:
      faults.append(
        f'{path}: {files[path.stem].name} has the same stem; remove one'
      )
    else:
      files[path.stem] = path
  return files, faults


def _matched(folder: pathlib.Path) -> tuple[list[Pair], list[str]]:
  """Pairs the files of `images` and `labels` by stem; see `survey`."""
  images, faults = _by_stem(folder / 'images', info_lib.IMAGE_SUFFIXES)
  masks, more = _by_stem(folder / 'labels', MASK_SUFFIXES)
  faults += more
  # A JPEG that stands for a mask is paired too, for its reader to refuse.
  jpegs, _ = _by_stem(folder / 'labels', ('.jpg', '.jpeg'))
  masks = {k: path for k, path in jpegs.items() if k in images} | masks
  for stem in sorted(images.keys() ^ masks.keys()):
    if stem in images:
      faults.append(
        f'{images[stem]}: image without a mask; add '
        f'{folder / "labels" / stem}.png or remove the image'
      )
    else:
      faults.append(
        f'{masks[stem]}: mask without an image; add an image of stem {stem!r} '
        f'to {folder / "images"} or remove the mask'
      )
  stems = sorted(images.keys() & masks.keys())
  return [(images[stem], masks[stem]) for stem in stems], faults
