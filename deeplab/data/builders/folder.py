"""Your own images and annotations, in the forms that tools save them in.

A split is, below `config.data.root`, the first of these that exists:

- SPLIT.txt, a list with a line `image annotation` a pair, both relative to
  ROOT; a tab between them if names have spaces;
- COCO JSON, CVAT's XML, or an export in the form of Pascal VOC: see `formats`;
- folders SPLIT/images and SPLIT/labels, whose files are paired by stem, or one
  folder SPLIT of images with labelme's JSON files beside them.

Formats that name their classes are drawn by the names in
`config.data.class_names` or ROOT/classes.txt; `formats.classes` says how.

Images are RGB of 8 bits, or, by the length of `config.data.mean` and by
`config.data.depth`, of any number of channels and of 16: TIFF, PNG or .npy.

Annotations of one image are index, palette or grey images that hold class ids,
RGB images whose colours stand in `config.data.color_map` or ROOT/classes.txt,
or labelme's JSON files.

With `config.data.pool` all examples are one split of that name ('.': ROOT
itself). The examples that SPLIT.txt names, by file or by stem, one a line, are
that split; without lists `eval_split` takes `pool_share` of them and
`train_split` the rest. An image's path below ROOT and `pool_seed` alone decide
that, so that other images may come and go.

A fingerprint of the files (names, sizes, times) and of the class facts is part
of the prepared data's name, so an edited mask is prepared anew and never
served stale. What was prepared before an edit stays on disk until removed.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from deeplab.data import dataset_info
from deeplab.data import image_format
from deeplab.data.formats import classes as classes_lib
from deeplab.data.formats import coco_json
from deeplab.data.formats import cvat
from deeplab.data.formats import labelme
from deeplab.data.formats import pairs as pairs_lib
from deeplab.data.formats import voc_export
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import records


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
  """One split of one folder.

  Attributes:
    split: name of the split.
    sources: the examples.
    pixels: channels and depth of the images.
    facts: classes, ignore label and colours.
  """

  split: str = ''
  facts: dataset_info.DatasetInfo | None = dataclasses.field(
    default=None, repr=False
  )
  sources: tuple[raw_examples.Source, ...] = dataclasses.field(
    default=(), repr=False
  )
  pixels: image_format.Pixels = dataclasses.field(
    default=image_format.RGB, repr=False
  )


class Folder(tfds.core.GeneratorBasedBuilder):
  """Images and annotations from a folder of the user's own."""

  VERSION = tfds.core.Version('1.1.0')

  def _info(self) -> tfds.core.DatasetInfo:
    pixels = self.builder_config.pixels
    return records.builder_info(self, __doc__, pixels=pixels)

  def _split_generators(self, dl_manager):
    del dl_manager
    return {records.SPLIT: self._generate_examples()}

  def _generate_examples(self):
    config = self.builder_config
    return raw_examples.generate(
      self, config.sources, config.facts, config.split, config.pixels
    )


def builder(data: Any, split: str) -> Folder:
  """Returns the builder of one split of `config.data.root`.

  Reads `root`, `data_dir`, what `find`, `bands.of` and `catalog.info_for` read.

  Raises:
    ValueError: no such folder or split, an empty split, or an image or an
      annotation that has no partner.
  """
  sources = find(data, split)
  classes = classes_lib.classes_of(data)
  pixels = image_format.of(data)
  files = [path for one in sources for path in (one.image, one.annotation)]
  name = fingerprint.of(
    split, dict.fromkeys(files), (classes.facts, classes.ids, pixels)
  )
  return Folder(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=FolderConfig(
      name=name,
      split=split,
      facts=classes.facts,
      sources=sources,
      pixels=pixels,
    ),
  )


def find(data: Any, split: str) -> tuple[raw_examples.Source, ...]:
  """Returns the examples of a split, sorted by image.

  Args:
    data: reads `root`, `pool`, `pool_share`, `pool_seed`, `train_split`,
      `eval_split` and what `catalog.info_for` reads.
    split: name of the split.

  Raises:
    ValueError: as `builder`.
  """
  base = _base(data, split)
  classes = classes_lib.classes_of(data)
  sources = _find_all(base, data.pool or split, classes)
  if data.pool:
    sources = _share(base, sources, data, split)
  if not sources:
    raise ValueError(_empty(base, split))
  return tuple(sorted(sources, key=lambda one: (one.image, one.annotation)))


def survey(
  data: Any, split: str
) -> tuple[tuple[pairs_lib.Pair, ...], list[pairs_lib.Fault]] | None:
  """Returns the (image, mask) files of a split, and all that is wrong there.

  Args:
    data: reads what `find` reads.
    split: name of the split.

  Returns:
    The pairs that there are, sorted by image, and a fault for each file
    without a partner, each bad line of a list, or the lack of all files; none
    if the split is whole. None where there are no masks to look at: for
    annotations that are drawn.

  Raises:
    ValueError: no root is given, a damaged annotation file of many images, or
      no such split of the pool.
  """
  base, classes = _base(data, split), classes_lib.classes_of(data)
  whole = data.pool or split
  if _drawn(base, whole, classes) is not None:
    return None
  pairs, faults = pairs_lib.find(base, whole)
  if any(path.suffix.lower() == '.json' for _, path in pairs):
    return None
  if data.pool:
    with errors.collected() as more:
      masks = [raw_examples.Source(*pair, classes.facts) for pair in pairs]
      chosen = _share(base, masks, data, split)
    pairs = tuple(sorted((one.image, one.annotation) for one in chosen))
    faults += map(pairs_lib.Fault, more)
  if not pairs and not faults:
    faults = [pairs_lib.Fault(_empty(base, split))]
  return pairs, faults


def ignores_undrawn(data: Any) -> bool:
  """Returns whether pixels that nobody drew are ignored, for want of a class.

  Args:
    data: reads what `find` reads.

  Returns:
    False where annotations are masks, or a class is called 'background'.
  """
  if classes_lib.BACKGROUND in classes_lib.classes_of(data).ids:
    return False
  for split in (data.train_split, data.eval_split):
    with errors.collected(), contextlib.suppress(ValueError):
      suffixes = {one.annotation.suffix for one in find(data, split)}
      if suffixes & {'.json', '.xml'}:
        return True
  return False


def _base(data: Any, split: str) -> pathlib.Path:
  """Returns `config.data.root`, a folder."""
  if not data.root:
    raise ValueError(
      'config.data.root is empty: give --config.data.root=FOLDER, which holds '
      f'{split}/images and {split}/labels'
    )
  base = pathlib.Path(data.root).expanduser().resolve()
  if not base.is_dir():
    raise ValueError(
      f'there is no folder {base}: correct --config.data.root, the folder that '
      'holds your images and annotations'
    )
  return base


def _empty(base: pathlib.Path, split: str) -> str:
  """Says that a split is empty."""
  return (
    f'{base / split}: split {split!r} is empty; put pairs of images and masks '
    'there'
  )


def _drawn(
  base: pathlib.Path, split: str, classes: classes_lib.Classes
) -> list[raw_examples.Source] | None:
  """Returns the examples of a file of many images, None without one."""
  if not (base / f'{split}.txt').is_file():
    for module in (coco_json, cvat, voc_export):
      sources = module.find(base, split, classes)
      if sources is not None:
        return sources
  return None


def _find_all(
  base: pathlib.Path, split: str, classes: classes_lib.Classes
) -> list[raw_examples.Source]:
  """Returns all examples of one name, of whatever form."""
  sources = _drawn(base, split, classes)
  if sources is not None:
    return sources
  pairs, faults = pairs_lib.find(base, split)
  for fault in faults:
    errors.report(ValueError(fault.text))
  drawn = functools.partial(labelme.read, classes=classes)
  return [
    raw_examples.Source(image, path, classes.drawn, drawn)
    if path.suffix.lower() == '.json'
    else raw_examples.Source(image, path, classes.facts)
    for image, path in pairs
  ]


def _share(
  base: pathlib.Path, sources: list[raw_examples.Source], data: Any, split: str
) -> list[raw_examples.Source]:
  """Returns the examples of the pool that belong to a split."""
  listing = base / f'{split}.txt'
  if listing.is_file():
    lines = listing.read_text('utf-8').splitlines()
    wanted = {line.strip() for line in lines if line.strip()}
    chosen: dict[str, raw_examples.Source] = {}
    for one in sources:
      names = _path(base, one), one.image.name
      for name in (*names, one.image.stem):
        if name in wanted and chosen.setdefault(name, one) is not one:
          error = ValueError(
            f'{listing}: {name!r} is both {one.image} and '
            f'{chosen[name].image}; name them by their paths below {base}'
          )
          errors.report(error)
    for name in sorted(wanted - chosen.keys()):
      error = ValueError(
        f'{listing}: {name!r} is no image of the pool {data.pool!r}'
      )
      errors.report(error)
    return list(chosen.values())
  if split not in (data.train_split, data.eval_split):
    raise ValueError(
      f'{listing}: no such list; without lists the pool {data.pool!r} has the '
      f'splits {data.train_split!r} and {data.eval_split!r}'
    )
  return [
    one
    for one in sources
    if (split == data.eval_split)
    == (_draw(_path(base, one), data.pool_seed) < data.pool_share)
  ]


def _path(base: pathlib.Path, one: raw_examples.Source) -> str:
  """Returns the path of an image from the root on, the same everywhere."""
  return pathlib.Path(os.path.relpath(one.image, base)).as_posix()


def _draw(path: str, seed: int) -> float:
  """Returns a number in [0, 1) that the path and the seed decide."""
  digest = hashlib.sha256(f'{seed}/{path}'.encode()).digest()
  return int.from_bytes(digest[:6], 'big') / 2**48
