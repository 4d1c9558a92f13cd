"""What the builders of published data sets share: pairs of files, and a root.

A data set has its own `ImagePairBuilder` class, which says how a pair becomes
records, and its own search for the pairs of a split in the official layout.

Besides that layout the aerial sets are read as mmsegmentation's converters
leave them: `img_dir/SPLIT` and `ann_dir/SPLIT`, with class ids as masks.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data.preparation import downloads
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import raw_files
from deeplab.data.preparation import records

Pair = tuple[pathlib.Path, pathlib.Path]


@dataclasses.dataclass(eq=False)
class ImagePairConfig(tfds.core.BuilderConfig):
  """One split of one data set.

  Attributes:
    split: name of the split.
    pairs: (image, mask) files; empty if they are to be downloaded.
    info: facts about the data set.
    urls: the archives that hold them.
    find_pairs: returns the pairs in the folder of the unpacked archives.
  """

  split: str = ''
  pairs: tuple[Pair, ...] = dataclasses.field(default=(), repr=False)
  info: Any = dataclasses.field(default=None, repr=False)
  urls: tuple[str, ...] = ()
  find_pairs: Callable[[pathlib.Path], Iterable[Pair]] | None = None


class ImagePairBuilder(tfds.core.GeneratorBasedBuilder):
  """Prepares pairs of files; a data set's class says how one is read."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    facts = self.builder_config.info
    return records.tfds_info(self, self.__doc__ or '', facts.url)

  def _split_generators(self, dl_manager):
    config = self.builder_config
    pairs = config.pairs
    if config.find_pairs:
      facts = config.info
      base = downloads.download_and_unpack(
        dl_manager, config.urls, self.name, download_instructions(facts)
      )
      pairs = tuple(config.find_pairs(base))
    return {records.TFDS_SPLIT: self._generate_examples(pairs)}

  def _generate_examples(self, pairs):
    config = self.builder_config
    return records.generate_records(
      self, self.read_pair, pairs, config.info, config.split
    )

  def read_pair(self, pair: Pair) -> list[records.Record]:
    """Returns the records of an image and its mask."""
    image, mask = pair
    facts = self.builder_config.info
    read = self.read_mask
    return [records.read_record(image, mask, image.stem, facts, read_mask=read)]

  def read_mask(self, path: pathlib.Path) -> np.ndarray:
    """Returns raw ids [H, W], or colours [H, W, 3]."""
    return raw_files.read_mask(path)


def make_builder(
  builder_cls: type[ImagePairBuilder],
  data: Any,
  split: str,
  pairs: Iterable[Pair],
) -> ImagePairBuilder:
  """Returns the builder of one split; reads `name` and `data_dir`."""
  facts, pairs = catalog.info_for(data), tuple(pairs)
  name = fingerprint.hash_files(
    split, (path for pair in pairs for path in pair), facts
  )
  return builder_cls(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=ImagePairConfig(name=name, split=split, pairs=pairs, info=facts),
  )


def make_downloadable_builder(
  builder_cls: type[ImagePairBuilder],
  data: Any,
  split: str,
  known_splits: Sequence[str],
  urls: Iterable[str],
  find_pairs: Callable[[pathlib.Path], Iterable[Pair]],
) -> ImagePairBuilder:
  """Returns the builder of one split; without a root it downloads first.

  Args:
    builder_cls: the data set's class.
    data: the `data` section of a config; reads `name`, `root` and `data_dir`.
    split: name of the wanted split.
    known_splits: the splits that the data set has.
    urls: the archives that the split needs.
    find_pairs: returns the pairs at or below a root.

  Raises:
    ValueError: an unknown split, no such root, or as `find_pairs`.
  """
  if data.root:
    return make_builder(
      builder_cls,
      data,
      split,
      find_pairs(resolve_root(data, split, known_splits)),
    )
  check_split(data, split, known_splits)
  return builder_cls(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=ImagePairConfig(
      name=f'{data.name}_{split}_download',
      split=split,
      info=catalog.info_for(data),
      urls=tuple(urls),
      find_pairs=find_pairs,
    ),
  )


def download_instructions(info: dataset_info.DatasetInfo) -> str:
  """Returns what to do where a file is missing."""
  fetch = info.instructions[0].lower() + info.instructions[1:].rstrip('.')
  return f'{fetch} ({info.url}), and give --config.data.root=FOLDER'


def glob_nested(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  """Returns what matches in a folder and three levels down, through links."""
  return [
    path
    for depth in range(4)
    for path in sorted(folder.glob('*/' * depth + pattern))
  ]


def check_split(data: Any, split: str, known_splits: Sequence[str]) -> None:
  """Raises ValueError for a split that a data set does not have."""
  if split not in known_splits:
    raise ValueError(
      f'{data.name} has no split {split!r}; its splits are '
      f'{", ".join(known_splits)}'
    )


def resolve_root(
  data: Any, split: str, known_splits: Sequence[str]
) -> pathlib.Path:
  """Returns the folder with the data, `config.data.root`.

  Args:
    data: the `data` section of a config.
    split: name of the wanted split.
    known_splits: the splits that the data set has.

  Raises:
    ValueError: an unknown split, or no such root.
  """
  facts = catalog.info_for(data)
  check_split(data, split, known_splits)
  if not data.root:
    raise ValueError(
      f'config.data.root is empty: {download_instructions(facts)}'
    )
  root = pathlib.Path(data.root).expanduser().resolve()
  if not root.is_dir():
    raise ValueError(
      f'config.data.root={root} is no folder: {download_instructions(facts)}'
    )
  return root


def archive_folder(root: pathlib.Path, archive: str) -> pathlib.Path:
  """Returns the folder that an archive makes, which the root may be itself."""
  return root / archive if (root / archive).is_dir() else root


def pair_images_with_masks(
  data: Any,
  searched: pathlib.Path,
  images: Iterable[pathlib.Path],
  mask_candidates: Callable[[pathlib.Path], Sequence[pathlib.Path]],
) -> list[Pair]:
  """Finds the masks of images.

  Args:
    data: the `data` section of a config.
    searched: the place where images are looked for, for messages.
    images: the images, in any order.
    mask_candidates: the places where the mask of an image may be; the first one
      counts.

  Returns:
    (image, mask) files, sorted by image.

  Raises:
    ValueError: there are no images, or one or its mask is no file.
  """
  facts = catalog.info_for(data)
  pairs = []
  for image in sorted(images):
    places = mask_candidates(image)
    mask = next((path for path in places if path.is_file()), places[0])
    with errors.catch_and_collect():
      for path in (image, mask):
        if not path.is_file():
          raise ValueError(f'{path} is missing: {download_instructions(facts)}')
      pairs.append((image, mask))
  if not pairs:
    raise ValueError(
      f'{searched} holds no images: {download_instructions(facts)}'
    )
  return pairs


def find_mmseg_pairs(
  data: Any, root: pathlib.Path, split: str, mask_suffix: str = '.png'
) -> list[Pair] | None:
  """Returns the pairs of `img_dir` and `ann_dir`; None without such folders.

  Args:
    data: the `data` section of a config.
    root: the folder that holds the two.
    split: name of the split.
    mask_suffix: what a mask's name has in the place of the image's `.png`.

  Raises:
    ValueError: as `pair_images_with_masks`.
  """
  images, masks = root / 'img_dir' / split, root / 'ann_dir' / split
  if not images.is_dir():
    return None
  return pair_images_with_masks(
    data,
    images,
    images.glob('*.png'),
    lambda image: [masks / f'{image.stem}{mask_suffix}'],
  )
