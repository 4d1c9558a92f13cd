"""Base builder of published data sets that consist of (image, mask) files.

A data set has a subclass of `ImagePairBuilder`, which reads a pair into
records, and a function that finds the pairs of a split in the official layout.

Aerial data sets are also read as mmsegmentation's converters write them:
`img_dir/SPLIT` and `ann_dir/SPLIT`, with masks of class ids.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data.preparation import downloads
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import records

Pair = tuple[pathlib.Path, pathlib.Path]


@dataclasses.dataclass(eq=False)
class ImagePairConfig(tfds.core.BuilderConfig):
  """One split of one data set.

  Attributes:
    split: name of the split.
    pairs: (image, mask) files; empty to download them.
    info: classes of the data set.
    urls: the archives to download.
    find_pairs: returns the pairs in the folder of the unpacked archives.
  """

  split: str = ''
  pairs: tuple[Pair, ...] = dataclasses.field(default=(), repr=False)
  info: Any = dataclasses.field(default=None, repr=False)
  urls: tuple[str, ...] = ()
  find_pairs: Callable[[pathlib.Path], Iterable[Pair]] | None = None


class ImagePairBuilder(tfds.core.GeneratorBasedBuilder):
  """Prepares (image, mask) files; subclasses override how a pair is read."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    url = self.builder_config.info.url
    return records.tfds_info(self, self.__doc__ or '', url)

  def _split_generators(self, dl_manager):
    config = self.builder_config
    pairs = config.pairs
    if config.find_pairs:
      remedy = download_instructions(config.info)
      base = downloads.download_and_unpack(
        dl_manager, config.urls, self.name, remedy
      )
      pairs = tuple(config.find_pairs(base))
    return {records.TFDS_SPLIT: self._generate_examples(pairs)}

  def _generate_examples(self, pairs):
    config = self.builder_config
    return records.generate_records(
      self, self.read_pair, pairs, config.info, config.split
    )

  def read_pair(self, pair: Pair) -> list[records.Record]:
    """Returns the records of an (image, mask) pair; one, unless overridden."""
    image, mask = pair
    info = self.builder_config.info
    return [
      records.read_record(
        image, mask, image.stem, info, read_mask=self.read_mask
      )
    ]

  def read_mask(self, path: pathlib.Path) -> np.ndarray:
    """Reads a mask as raw ids [H, W] or colors [H, W, 3] uint8."""
    return mask_files.read_mask(path)


def make_builder(
  builder_cls: type[ImagePairBuilder],
  data: Any,
  split: str,
  pairs: Iterable[Pair],
) -> ImagePairBuilder:
  """Returns the builder of one split whose files are at hand.

  Args:
    builder_cls: the data set's subclass.
    data: `config.data`; reads `name` and `data_dir`.
    split: name of the split.
    pairs: (image, mask) files, in the order of the records.
  """
  info, pairs = catalog.info_for(data), tuple(pairs)
  name = fingerprint.hash_files(
    split, (path for pair in pairs for path in pair), repr(info)
  )
  return builder_cls(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=ImagePairConfig(name=name, split=split, pairs=pairs, info=info),
  )


def make_downloadable_builder(
  builder_cls: type[ImagePairBuilder],
  data: Any,
  split: str,
  known_splits: Sequence[str],
  urls: Iterable[str],
  find_pairs: Callable[[pathlib.Path], Iterable[Pair]],
) -> ImagePairBuilder:
  """Returns the builder of one split; without a root it downloads the files.

  Args:
    builder_cls: the data set's subclass.
    data: `config.data`; reads `name`, `root` and `data_dir`.
    split: name of the split.
    known_splits: names of the data set's splits.
    urls: archives to download for the split.
    find_pairs: returns the pairs of the split at or below a root.

  Raises:
    ValueError: an unknown split, the root does not exist, or files are missing.
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
  """Returns instructions to get a data set, for messages on missing files."""
  fetch = info.instructions[0].lower() + info.instructions[1:].rstrip('.')
  return f'{fetch} ({info.url}), and give --config.data.root=FOLDER'


def glob_nested(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  """Returns the paths that match in a folder and up to three levels below.

  Unlike `Path.rglob` it follows symbolic links.
  """
  return [
    path
    for depth in range(4)
    for path in sorted(folder.glob('*/' * depth + pattern))
  ]


def check_split(data: Any, split: str, known_splits: Sequence[str]) -> None:
  """Raises ValueError if a data set has no split of that name."""
  if split not in known_splits:
    raise ValueError(
      f'{data.name} has no split {split!r}; its splits are '
      f'{", ".join(known_splits)}'
    )


def resolve_root(
  data: Any, split: str, known_splits: Sequence[str]
) -> pathlib.Path:
  """Returns the folder `config.data.root`.

  Args:
    data: `config.data`; reads `name` and `root`.
    split: name of the split.
    known_splits: names of the data set's splits.

  Raises:
    ValueError: an unknown split, or the root is empty or not a folder.
  """
  info = catalog.info_for(data)
  check_split(data, split, known_splits)
  if not data.root:
    raise ValueError(
      f'config.data.root is empty: {download_instructions(info)}'
    )
  root = pathlib.Path(data.root).expanduser().resolve()
  if not root.is_dir():
    raise ValueError(
      f'config.data.root={root} is not a folder: {download_instructions(info)}'
    )
  return root


def archive_folder(root: pathlib.Path, archive: str) -> pathlib.Path:
  """Returns the folder of an unpacked archive: below the root, or the root."""
  return root / archive if (root / archive).is_dir() else root


def pair_images_with_masks(
  data: Any,
  searched: pathlib.Path,
  images: Iterable[pathlib.Path],
  mask_candidates: Callable[[pathlib.Path], Sequence[pathlib.Path]],
) -> list[Pair]:
  """Pairs each image with its mask.

  Args:
    data: `config.data`; reads `name`.
    searched: the folder or list of the images, for messages.
    images: the images, in any order.
    mask_candidates: returns possible masks of an image; the first that exists
      is taken.

  Returns:
    (image, mask) files, sorted by image.

  Raises:
    ValueError: there are no images, or an image or its mask does not exist.
  """
  info = catalog.info_for(data)
  pairs = []
  for image in sorted(images):
    candidates = mask_candidates(image)
    mask = next(filter(os.path.isfile, candidates), candidates[0])
    with errors.catch_and_collect():
      for path in (image, mask):
        if not os.path.isfile(path):
          raise ValueError(f'{path} is missing: {download_instructions(info)}')
      pairs.append((image, mask))
  if not pairs:
    raise ValueError(f'{searched} has no images: {download_instructions(info)}')
  return pairs


def find_mmseg_pairs(
  data: Any, root: pathlib.Path, split: str, mask_suffix: str = '.png'
) -> list[Pair] | None:
  """Returns the pairs in mmsegmentation's folders, None if there are none.

  Args:
    data: `config.data`; reads `name`.
    root: the folder that holds `img_dir` and `ann_dir`.
    split: name of the split.
    mask_suffix: ending of a mask's name that replaces the image's `.png`.

  Raises:
    ValueError: `img_dir/SPLIT` has no images, or a mask is missing.
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
