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
    examples: the examples.
    image_spec: channels and depth of the images.
    info: classes, ignore label and colours.
  """

  split: str = ''
  info: dataset_info.DatasetInfo | None = dataclasses.field(
    default=None, repr=False
  )
  examples: tuple[raw_examples.RawExample, ...] = dataclasses.field(
    default=(), repr=False
  )
  image_spec: image_format.ImageSpec = dataclasses.field(
    default=image_format.RGB, repr=False
  )


class Folder(tfds.core.GeneratorBasedBuilder):
  """Images and annotations from a folder of the user's own."""

  VERSION = tfds.core.Version('1.1.0')

  def _info(self) -> tfds.core.DatasetInfo:
    pixels = self.builder_config.image_spec
    return records.tfds_info(self, __doc__, spec=pixels)

  def _split_generators(self, dl_manager):
    del dl_manager
    return {records.TFDS_SPLIT: self._generate_examples()}

  def _generate_examples(self):
    config = self.builder_config
    return raw_examples.generate_records(
      self, config.examples, config.info, config.split, config.image_spec
    )


def make_builder(data: Any, split: str) -> Folder:
  """Returns the builder of one split of `config.data.root`.

  Reads `root`, `data_dir`, what `find_examples`, `bands.of` and
  `catalog.info_for` read.

  Raises:
    ValueError: no such folder or split, an empty split, or an image or an
      annotation that has no partner.
  """
  sources = find_examples(data, split)
  classes = classes_lib.load_class_table(data)
  pixels = image_format.image_spec(data)
  files = [path for one in sources for path in (one.image, one.annotation)]
  name = fingerprint.hash_files(
    split, dict.fromkeys(files), (classes.mask_info, classes.ids, pixels)
  )
  return Folder(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=FolderConfig(
      name=name,
      split=split,
      info=classes.mask_info,
      examples=sources,
      image_spec=pixels,
    ),
  )


def find_examples(data: Any, split: str) -> tuple[raw_examples.RawExample, ...]:
  """Returns the examples of a split, sorted by image.

  Args:
    data: reads `root`, `pool`, `pool_share`, `pool_seed`, `train_split`,
      `eval_split` and what `catalog.info_for` reads.
    split: name of the split.

  Raises:
    ValueError: as `make_builder`.
  """
  base = _resolve_root(data, split)
  classes = classes_lib.load_class_table(data)
  sources = _find_all_examples(base, data.pool or split, classes)
  if data.pool:
    sources = _select_from_pool(base, sources, data, split)
  if not sources:
    raise ValueError(_empty_split_message(base, split))
  return tuple(sorted(sources, key=lambda one: (one.image, one.annotation)))


def find_pairs_and_issues(
  data: Any, split: str
) -> tuple[tuple[pairs_lib.Pair, ...], list[pairs_lib.PairIssue]] | None:
  """Returns the (image, mask) files of a split, and all that is wrong there.

  Args:
    data: reads what `find_examples` reads.
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
  base, classes = _resolve_root(data, split), classes_lib.load_class_table(data)
  whole = data.pool or split
  if _find_in_annotation_files(base, whole, classes) is not None:
    return None
  pairs, faults = pairs_lib.find_pairs(base, whole)
  if any(path.suffix.lower() == '.json' for _, path in pairs):
    return None
  if data.pool:
    with errors.collect_errors() as more:
      masks = [
        raw_examples.RawExample(*pair, classes.mask_info) for pair in pairs
      ]
      chosen = _select_from_pool(base, masks, data, split)
    pairs = tuple(sorted((one.image, one.annotation) for one in chosen))
    faults += map(pairs_lib.PairIssue, more)
  if not pairs and not faults:
    faults = [pairs_lib.PairIssue(_empty_split_message(base, split))]
  return pairs, faults


def ignores_unannotated_pixels(data: Any) -> bool:
  """Returns whether pixels that nobody drew are ignored, for want of a class.

  Args:
    data: reads what `find_examples` reads.

  Returns:
    False where annotations are masks, or a class is called 'background'.
  """
  if classes_lib.BACKGROUND in classes_lib.load_class_table(data).ids:
    return False
  for split in (data.train_split, data.eval_split):
    with errors.collect_errors(), contextlib.suppress(ValueError):
      suffixes = {one.annotation.suffix for one in find_examples(data, split)}
      if suffixes & {'.json', '.xml'}:
        return True
  return False


def _resolve_root(data: Any, split: str) -> pathlib.Path:
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


def _empty_split_message(base: pathlib.Path, split: str) -> str:
  """Says that a split is empty."""
  return (
    f'{base / split}: split {split!r} is empty; put pairs of images and masks '
    'there'
  )


def _find_in_annotation_files(
  base: pathlib.Path, split: str, classes: classes_lib.ClassTable
) -> list[raw_examples.RawExample] | None:
  """Returns the examples of a file of many images, None without one."""
  if not (base / f'{split}.txt').is_file():
    for module in (coco_json, cvat, voc_export):
      sources = module.find_examples(base, split, classes)
      if sources is not None:
        return sources
  return None


def _find_all_examples(
  base: pathlib.Path, split: str, classes: classes_lib.ClassTable
) -> list[raw_examples.RawExample]:
  """Returns all examples of one name, of whatever form."""
  sources = _find_in_annotation_files(base, split, classes)
  if sources is not None:
    return sources
  pairs, faults = pairs_lib.find_pairs(base, split)
  for fault in faults:
    errors.raise_or_collect(ValueError(fault.text))
  drawn = functools.partial(labelme.read_label, classes=classes)
  return [
    raw_examples.RawExample(image, path, classes.drawn_info, drawn)
    if path.suffix.lower() == '.json'
    else raw_examples.RawExample(image, path, classes.mask_info)
    for image, path in pairs
  ]


def _select_from_pool(
  base: pathlib.Path,
  examples: list[raw_examples.RawExample],
  data: Any,
  split: str,
) -> list[raw_examples.RawExample]:
  """Returns the examples of the pool that belong to a split."""
  listing = base / f'{split}.txt'
  if listing.is_file():
    lines = listing.read_text('utf-8').splitlines()
    wanted = {line.strip() for line in lines if line.strip()}
    chosen: dict[str, raw_examples.RawExample] = {}
    for one in examples:
      names = _relative_path(base, one), one.image.name
      for name in (*names, one.image.stem):
        if name in wanted and chosen.setdefault(name, one) is not one:
          error = ValueError(
            f'{listing}: {name!r} is both {one.image} and '
            f'{chosen[name].image}; name them by their paths below {base}'
          )
          errors.raise_or_collect(error)
    for name in sorted(wanted - chosen.keys()):
      error = ValueError(
        f'{listing}: {name!r} is no image of the pool {data.pool!r}'
      )
      errors.raise_or_collect(error)
    return list(chosen.values())
  if split not in (data.train_split, data.eval_split):
    raise ValueError(
      f'{listing}: no such list; without lists the pool {data.pool!r} has the '
      f'splits {data.train_split!r} and {data.eval_split!r}'
    )
  return [
    one
    for one in examples
    if (split == data.eval_split)
    == (
      _hash_to_uniform(_relative_path(base, one), data.pool_seed)
      < data.pool_share
    )
  ]


def _relative_path(base: pathlib.Path, example: raw_examples.RawExample) -> str:
  """Returns the path of an image from the root on, the same everywhere."""
  return pathlib.Path(os.path.relpath(example.image, base)).as_posix()


def _hash_to_uniform(path: str, seed: int) -> float:
  """Returns a number in [0, 1) that the path and the seed decide."""
  digest = hashlib.sha256(f'{seed}/{path}'.encode()).digest()
  return int.from_bytes(digest[:6], 'big') / 2**48
