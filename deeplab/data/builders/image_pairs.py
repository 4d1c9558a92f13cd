"""What the builders of published data sets share: pairs of files, and a root.

A data set has its own `Files` class, which says how a pair becomes records,
and its own search for the pairs of a split in the official layout.

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
class FilesConfig(tfds.core.BuilderConfig):
  """One split of one data set.

  Attributes:
    split: name of the split.
    pairs: (image, mask) files; empty if they are to be downloaded.
    facts: facts about the data set.
    urls: the archives that hold them.
    find: returns the pairs in the folder of the unpacked archives.
  """

  split: str = ''
  pairs: tuple[Pair, ...] = dataclasses.field(default=(), repr=False)
  facts: Any = dataclasses.field(default=None, repr=False)
  urls: tuple[str, ...] = ()
  find: Callable[[pathlib.Path], Iterable[Pair]] | None = None


class Files(tfds.core.GeneratorBasedBuilder):
  """Prepares pairs of files; a data set's class says how one is read."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    facts = self.builder_config.facts
    return records.builder_info(self, self.__doc__ or '', facts.url)

  def _split_generators(self, dl_manager):
    config = self.builder_config
    pairs = config.pairs
    if config.find:
      facts = config.facts
      base = downloads.fetch(dl_manager, config.urls, self.name, remedy(facts))
      pairs = tuple(config.find(base))
    return {records.SPLIT: self._generate_examples(pairs)}

  def _generate_examples(self, pairs):
    config = self.builder_config
    return records.generate(
      self, self.read_pair, pairs, config.facts, config.split
    )

  def read_pair(self, pair: Pair) -> list[records.Record]:
    """Returns the records of an image and its mask."""
    image, mask = pair
    facts = self.builder_config.facts
    read = self.read_mask
    return [records.example(image, mask, image.stem, facts, read=read)]

  def read_mask(self, path: pathlib.Path) -> np.ndarray:
    """Returns raw ids [H, W], or colours [H, W, 3]."""
    return raw_files.read_mask(path)


def make(
  files: type[Files], data: Any, split: str, pairs: Iterable[Pair]
) -> Files:
  """Returns the builder of one split; reads `name` and `data_dir`."""
  facts, pairs = catalog.info_for(data), tuple(pairs)
  name = fingerprint.of(split, (path for pair in pairs for path in pair), facts)
  return files(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=FilesConfig(name=name, split=split, pairs=pairs, facts=facts),
  )


def build(
  files: type[Files],
  data: Any,
  split: str,
  known: Sequence[str],
  urls: Iterable[str],
  find: Callable[[pathlib.Path], Iterable[Pair]],
) -> Files:
  """Returns the builder of one split; without a root it downloads first.

  Args:
    files: the data set's class.
    data: the `data` section of a config; reads `name`, `root` and `data_dir`.
    split: name of the wanted split.
    known: the splits that the data set has.
    urls: the archives that the split needs.
    find: returns the pairs at or below a root.

  Raises:
    ValueError: an unknown split, no such root, or as `find`.
  """
  if data.root:
    return make(files, data, split, find(base(data, split, known)))
  check_split(data, split, known)
  return files(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=FilesConfig(
      name=f'{data.name}_{split}_download',
      split=split,
      facts=catalog.info_for(data),
      urls=tuple(urls),
      find=find,
    ),
  )


def remedy(facts: dataset_info.DatasetInfo) -> str:
  """Returns what to do where a file is missing."""
  fetch = facts.instructions[0].lower() + facts.instructions[1:].rstrip('.')
  return f'{fetch} ({facts.url}), and give --config.data.root=FOLDER'


def below(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  """Returns what matches in a folder and three levels down, through links."""
  return [
    path
    for depth in range(4)
    for path in sorted(folder.glob('*/' * depth + pattern))
  ]


def check_split(data: Any, split: str, known: Sequence[str]) -> None:
  """Raises ValueError for a split that a data set does not have."""
  if split not in known:
    raise ValueError(
      f'{data.name} has no split {split!r}; its splits are {", ".join(known)}'
    )


def base(data: Any, split: str, known: Sequence[str]) -> pathlib.Path:
  """Returns the folder with the data, `config.data.root`.

  Args:
    data: the `data` section of a config.
    split: name of the wanted split.
    known: the splits that the data set has.

  Raises:
    ValueError: an unknown split, or no such root.
  """
  facts = catalog.info_for(data)
  check_split(data, split, known)
  if not data.root:
    raise ValueError(f'config.data.root is empty: {remedy(facts)}')
  root = pathlib.Path(data.root).expanduser().resolve()
  if not root.is_dir():
    raise ValueError(f'config.data.root={root} is no folder: {remedy(facts)}')
  return root


def inside(root: pathlib.Path, archive: str) -> pathlib.Path:
  """Returns the folder that an archive makes, which the root may be itself."""
  return root / archive if (root / archive).is_dir() else root


def pair_up(
  data: Any,
  where: pathlib.Path,
  images: Iterable[pathlib.Path],
  masks: Callable[[pathlib.Path], Sequence[pathlib.Path]],
) -> list[Pair]:
  """Finds the masks of images.

  Args:
    data: the `data` section of a config.
    where: the place where images are looked for, for messages.
    images: the images, in any order.
    masks: the places where the mask of an image may be; the first one counts.

  Returns:
    (image, mask) files, sorted by image.

  Raises:
    ValueError: there are no images, or one or its mask is no file.
  """
  facts = catalog.info_for(data)
  pairs = []
  for image in sorted(images):
    places = masks(image)
    mask = next((path for path in places if path.is_file()), places[0])
    with errors.reported():
      for path in (image, mask):
        if not path.is_file():
          raise ValueError(f'{path} is missing: {remedy(facts)}')
      pairs.append((image, mask))
  if not pairs:
    raise ValueError(f'{where} holds no images: {remedy(facts)}')
  return pairs


def converted(
  data: Any, root: pathlib.Path, split: str, suffix: str = '.png'
) -> list[Pair] | None:
  """Returns the pairs of `img_dir` and `ann_dir`; None without such folders.

  Args:
    data: the `data` section of a config.
    root: the folder that holds the two.
    split: name of the split.
    suffix: what a mask's name has in the place of the image's `.png`.

  Raises:
    ValueError: as `pair_up`.
  """
  images, masks = root / 'img_dir' / split, root / 'ann_dir' / split
  if not images.is_dir():
    return None
  return pair_up(
    data,
    images,
    images.glob('*.png'),
    lambda image: [masks / f'{image.stem}{suffix}'],
  )
