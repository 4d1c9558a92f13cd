"""Your own images and annotations, in the formats of annotation tools.

A split is the first of these that exists below ROOT, `config.data.root`:

- SPLIT.txt, a list with one line `image annotation` for each pair, as paths
  relative to ROOT, separated by a tab if names have spaces;
- a COCO JSON file, a CVAT XML file, or an export in the layout of Pascal VOC
  (see the modules in `deeplab/data/formats`);
- folders SPLIT/images and SPLIT/labels (or images/SPLIT and masks/SPLIT, and
  other names in common use), whose files are paired by their paths without
  suffix, subfolders included; masks may be called NAME_mask.png;
- one folder SPLIT with labelme's JSON files or masks NAME_mask.png beside the
  images.

`config.data.images` and `config.data.labels` name two folders of any name below
ROOT. If both have subfolders of the splits' names, these are taken; otherwise
the pairs are a pool that is split here, as below.

Images are turned upright by their EXIF orientation, as annotation tools show
them (`records.turn_like_image` on masks that were painted on stored pixels).
Each file holds one image, and one annotation of one image or of many.

Formats that name their classes are mapped to train ids by the names in
`config.data.class_names` or ROOT/classes.txt (see `formats/class_table.py`).

Images are RGB of 8 bits. With other lengths of `config.data.mean`, or with
`config.data.depth` = 16, they have that many channels or 16 bits, as TIFF, PNG
or .npy files.

Annotations of single images are palette or grey images of class ids, RGB images
whose colors are listed in `config.data.color_map` or ROOT/classes.txt, or
labelme's JSON files.

With `config.data.pool` all examples are found under that one name ('.' for ROOT
itself) and then split. If SPLIT.txt exists, the split has the examples that it
lists by file or by stem, one on each line. Otherwise `eval_split` takes
`pool_share` of the pool and `train_split` the rest. That choice depends only on
an image's path below ROOT and on `pool_seed`, so adding or removing images
leaves the others in their splits.

The name of the prepared data contains a fingerprint of the files (names, sizes,
modification times) and of the classes, so an edited mask is prepared again and
never served stale. Data that was prepared before an edit stays on disk until
you remove it.
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
from deeplab.data import image_files
from deeplab.data import image_format
from deeplab.data.formats import class_table
from deeplab.data.formats import coco_json
from deeplab.data.formats import cvat
from deeplab.data.formats import file_pairs
from deeplab.data.formats import labelme
from deeplab.data.formats import voc_export
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import records
from deeplab.files import text_files

# Formats whose annotation files hold many images, in the order in which they
# are tried. Each module has `find_examples(base, split, classes)`, which
# returns None if its file is missing.
_FORMATS = coco_json, cvat, voc_export


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
  """One split of one folder.

  Attributes:
    split: name of the split.
    info: classes, ignore label and colors.
    examples: the examples, in the order of the records.
    image_spec: channels and depth of the images.
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
  """Images and annotations in a folder of the user's own."""

  VERSION = tfds.core.Version('1.1.0')

  def _info(self) -> tfds.core.DatasetInfo:
    spec = self.builder_config.image_spec
    return records.tfds_info(self, __doc__, spec=spec)

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

  Args:
    data: `config.data`; reads `data_dir`, `mean`, `depth` and the fields that
      `find_examples` reads.
    split: name of the split.

  Raises:
    ValueError: the folder or the split does not exist, the split is empty, or
      an image or an annotation has no partner.
  """
  examples = find_examples(data, split)
  classes = class_table.load_class_table(data)
  spec = image_format.image_spec(data)
  files = dict.fromkeys(
    path for x in examples for path in (x.image, x.annotation)
  )

  def builder_for(settings: str) -> Folder:
    return Folder(
      data_dir=data.data_dir or None,
      file_format='array_record',
      config=FolderConfig(
        name=fingerprint.hash_files(split, files, settings),
        split=split,
        info=classes.mask_info,
        examples=examples,
        image_spec=spec,
      ),
    )

  builder = builder_for(describe_settings(classes, spec))
  if not builder.data_path.exists():
    earlier = builder_for(describe_earlier_settings(classes, spec))
    colored = classes.mask_info.has_user_colors
    if earlier.data_path.exists() and not any(
      _is_read_anew(example, colored) for example in examples
    ):
      return earlier
  return builder


def describe_settings(
  classes: class_table.ClassTable, spec: image_format.ImageSpec
) -> str:
  """Returns the settings that a folder's fingerprint covers, as text."""
  colors = classes.mask_info.has_user_colors
  earlier = describe_earlier_settings(classes, spec)
  return f'({earlier}, upright, {colors=})'


def describe_earlier_settings(
  classes: class_table.ClassTable, spec: image_format.ImageSpec
) -> str:
  """Returns the settings as versions wrote them that read stored pixels.

  Their data is still used if none of its files is read in another way today, so
  that large folders are not prepared again for nothing. `Pixels` is a former
  name of `ImageSpec`.
  """
  pixels = f'Pixels(channels={spec.channels}, depth={spec.depth})'
  return f'({classes.mask_info!r}, {classes.ids!r}, {pixels})'


def _is_read_anew(example: raw_examples.RawExample, colored: bool) -> bool:
  """Returns True for files that earlier versions read in another way.

  They ignored orientations and further pages, and the colors of the classes in
  masks of one channel.

  Args:
    example: the files; their headers are read.
    colored: the user gave colors of the classes.
  """
  try:
    if image_files.read_orientation(example.image) != 1:
      return True
    if example.annotation.suffix.lower() in dataset_info.IMAGE_SUFFIXES:
      with image_files.open_image(example.annotation) as mask:
        upright = image_files.get_orientation(mask) == 1
        return not upright or (colored and mask.mode in ('1', 'L', 'P'))
  except ValueError:
    return True
  return False


def find_examples(data: Any, split: str) -> tuple[raw_examples.RawExample, ...]:
  """Returns the examples of a split, sorted by image.

  Args:
    data: `config.data`; reads `root`, `pool`, `pool_share`, `pool_seed`,
      `train_split`, `eval_split`, `num_classes`, `ignore_label`, `class_names`
      and `color_map`.
    split: name of the split.

  Raises:
    ValueError: the folder or the split does not exist, the split is empty, or
      an image or an annotation has no partner.
  """
  base = _resolve_root(data, split)
  classes = class_table.load_class_table(data)
  pool = _pool_of(base, data, split)
  examples = _find_all_examples(base, pool or split, classes, data)
  if pool:
    examples = _select_from_pool(base, examples, data, split)
  if not examples:
    raise ValueError(_empty_split_message(base, split))
  upright = (dataclasses.replace(x, upright=True) for x in examples)
  return tuple(sorted(upright, key=lambda x: (x.image, x.annotation)))


def find_pairs_and_issues(
  data: Any, split: str
) -> tuple[tuple[file_pairs.Pair, ...], list[file_pairs.PairIssue]] | None:
  """Returns the (image, mask) files of a split and the issues among them.

  Args:
    data: `config.data`; reads the fields that `find_examples` reads.
    split: name of the split.

  Returns:
    The pairs, sorted by image, and an issue for each file without a partner,
    for each malformed line of a list, or for an empty split. None if labels are
    drawn from annotation files, so that there are no masks to check.

  Raises:
    ValueError: the root is not given, an annotation file of many images is
      damaged, or the pool has no such split.
  """
  base, classes = _resolve_root(data, split), class_table.load_class_table(data)
  pool = _pool_of(base, data, split)
  if _find_in_annotation_files(base, pool or split, classes, data) is not None:
    return None
  pairs, issues = _find_pairs(base, pool or split, data)
  if any(path.suffix.lower() == '.json' for _, path in pairs):
    return None
  if pool:
    with errors.collect_errors() as messages:
      examples = [
        raw_examples.RawExample(*pair, classes.mask_info) for pair in pairs
      ]
      selected = _select_from_pool(base, examples, data, split)
    pairs = tuple(sorted((x.image, x.annotation) for x in selected))
    issues += map(file_pairs.PairIssue, messages)
  if not pairs and not issues:
    issues = [file_pairs.PairIssue(_empty_split_message(base, split))]
  return pairs, issues


def ignores_unannotated_pixels(data: Any) -> bool:
  """Returns True if pixels without a shape are ignored.

  This is so where labels are drawn from shapes and no class is named
  'background'; it is False for masks.

  Args:
    data: `config.data`; reads the fields that `find_examples` reads.
  """
  if class_table.BACKGROUND in class_table.load_class_table(data).ids:
    return False
  for split in (data.train_split, data.eval_split):
    with errors.collect_errors(), contextlib.suppress(ValueError):
      suffixes = {x.annotation.suffix for x in find_examples(data, split)}
      if suffixes & {'.json', '.xml'}:
        return True
  return False


def _resolve_root(data: Any, split: str) -> pathlib.Path:
  """Returns `config.data.root` as an absolute path, which exists."""
  if not data.root:
    raise ValueError(
      'config.data.root is empty: give --config.data.root=FOLDER, where FOLDER '
      f'holds {split}/images and {split}/labels'
    )
  base = pathlib.Path(data.root).expanduser().resolve()
  if not base.is_dir():
    raise ValueError(
      f'there is no folder {base}: set --config.data.root to the folder with '
      'your images and annotations'
    )
  return base


def _empty_split_message(base: pathlib.Path, split: str) -> str:
  return (
    f'{base / split}: split {split!r} is empty; put pairs of images and masks '
    'there'
  )


def _named_folders(
  base: pathlib.Path, data: Any
) -> tuple[pathlib.Path, pathlib.Path] | None:
  """Returns `config.data.images` and `config.data.labels`, None without them.

  Raises:
    ValueError: one of the two is not given, or no folder.
  """
  names = data.get('images', ''), data.get('labels', '')
  if not any(names):
    return None
  for field, name in zip(('images', 'labels'), names, strict=True):
    if not name or not (base / name).is_dir():
      raise ValueError(
        f'config.data.{field}={name!r} is not a folder in {base}: give both '
        '--config.data.images and --config.data.labels'
      )
  return base / names[0], base / names[1]


def _pool_of(base: pathlib.Path, data: Any, split: str) -> str:
  """Returns the name of the pool that is split here; '' without a pool.

  Two folders of images and of annotations are one, unless both have a folder
  for each split.
  """
  folders = _named_folders(base, data)
  if data.pool or folders is None:
    return data.pool
  return '' if all((x / split).is_dir() for x in folders) else data.images


def _find_pairs(
  base: pathlib.Path, split: str, data: Any
) -> tuple[tuple[file_pairs.Pair, ...], list[file_pairs.PairIssue]]:
  """Returns the pairs of a split or pool, and the issues among them."""
  folders = _named_folders(base, data)
  if folders is None:
    return file_pairs.find_pairs(base, split)
  images, labels = folders
  if (images / split).is_dir() and (labels / split).is_dir():
    return file_pairs.find_pairs(base, split, (images / split, labels / split))
  return file_pairs.find_pairs(base, split, (images, labels))


def _find_in_annotation_files(
  base: pathlib.Path, split: str, classes: class_table.ClassTable, data: Any
) -> list[raw_examples.RawExample] | None:
  """Returns the examples of an annotation file of many images, if any."""
  if _named_folders(base, data) is not None:
    return None
  if not (base / f'{split}.txt').is_file():
    for module in _FORMATS:
      examples = module.find_examples(base, split, classes)
      if examples is not None:
        return examples
  return None


def _find_all_examples(
  base: pathlib.Path, split: str, classes: class_table.ClassTable, data: Any
) -> list[raw_examples.RawExample]:
  """Returns all examples of a split or pool, whatever their format."""
  examples = _find_in_annotation_files(base, split, classes, data)
  if examples is not None:
    return examples
  pairs, issues = _find_pairs(base, split, data)
  for issue in issues:
    errors.raise_or_collect(ValueError(issue.text))

  def read_labelme(image: pathlib.Path) -> Any:
    return functools.partial(labelme.read_label, classes=classes, image=image)

  read_mask = functools.partial(
    mask_files.read_train_ids, info=classes.mask_info
  )
  return [
    raw_examples.RawExample(
      image,
      path,
      classes.drawn_info,
      read_labelme(image) if path.suffix.lower() == '.json' else read_mask,
    )
    for image, path in pairs
  ]


def _select_from_pool(
  base: pathlib.Path,
  examples: list[raw_examples.RawExample],
  data: Any,
  split: str,
) -> list[raw_examples.RawExample]:
  """Returns the examples of the pool that belong to a split."""
  pool = _pool_of(base, data, split)
  listing = base / f'{split}.txt'
  if listing.is_file():
    lines = text_files.read_text(listing).splitlines()
    listed = {line.strip() for line in lines if line.strip()}
    selected: dict[str, raw_examples.RawExample] = {}
    for example in examples:
      image = example.image
      for name in (_relative_path(base, example), image.name, image.stem):
        if name in listed and selected.setdefault(name, example) is not example:
          error = ValueError(
            f'{listing}: {name!r} is both {image} and '
            f'{selected[name].image}; list them by their paths below {base}'
          )
          errors.raise_or_collect(error)
    for name in sorted(listed - selected.keys()):
      error = ValueError(
        f'{listing}: {name!r} is not an image of the pool {pool!r}'
      )
      errors.raise_or_collect(error)
    return list(selected.values())
  if split not in (data.train_split, data.eval_split):
    raise ValueError(
      f'{listing}: no such list; without lists the pool {pool!r} has the '
      f'splits {data.train_split!r} and {data.eval_split!r}'
    )
  return [
    example
    for example in examples
    if (split == data.eval_split)
    == (
      _hash_to_uniform(_relative_path(base, example), data.pool_seed)
      < data.pool_share
    )
  ]


def _relative_path(base: pathlib.Path, example: raw_examples.RawExample) -> str:
  """Returns the image's path below the root, with / on every system."""
  return pathlib.Path(os.path.relpath(example.image, base)).as_posix()


def _hash_to_uniform(path: str, seed: int) -> float:
  """Hashes a path and a seed to a number in [0, 1)."""
  digest = hashlib.sha256(f'{seed}/{path}'.encode()).digest()
  return int.from_bytes(digest[:6], 'big') / 2**48
