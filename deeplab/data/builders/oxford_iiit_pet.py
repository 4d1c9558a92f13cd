"""Oxford-IIIT Pet: cats and dogs, each with a trimap.

The archives (0.8 GB) are downloaded, unless `config.data.root` holds them
unpacked: images/*.jpg and annotations/{trimaps/*.png,trainval.txt,test.txt}.
The splits are `train` and `test`; there is none for validation.

In a trimap 1 is the animal, 2 the background, and 3 the border between them,
which is ignored.

Parkhi et al., Cats and dogs, CVPR 2012.
"""

import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data.builders import image_pairs
from deeplab.data.formats import fields
from deeplab.data.preparation import downloads
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import records
from deeplab.files import text_files

URL = 'https://thor.robots.ox.ac.uk/~vgg/data/pets'
URLS = (f'{URL}/images.tar.gz', f'{URL}/annotations.tar.gz')
_REMEDY = (
  f'fetch {" and ".join(URLS)}, unpack into one FOLDER, and give '
  '--config.data.root=FOLDER'
)
_SPLIT_LISTS = {'train': 'trainval.txt', 'test': 'test.txt'}


class PetSegmentation(tfds.core.GeneratorBasedBuilder):
  """Oxford-IIIT Pet with two classes, animal and background; no breeds."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return records.tfds_info(
      self, __doc__, catalog.INFOS['oxford_iiit_pet'].url
    )

  def _split_generators(self, dl_manager):
    config = self.builder_config
    pairs = config.pairs
    if not pairs:
      base = downloads.download_and_unpack(
        dl_manager, URLS, 'oxford_iiit_pet', _REMEDY
      )
      pairs = find_pairs(base, config.split)
    return {records.TFDS_SPLIT: self._generate_examples(pairs)}

  def _generate_examples(self, pairs):
    info = catalog.INFOS['oxford_iiit_pet']
    examples = [
      raw_examples.RawExample(image, mask, info) for image, mask in pairs
    ]
    return raw_examples.generate_records(
      self, examples, info, self.builder_config.split
    )


def make_builder(data: Any, split: str) -> PetSegmentation:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `root` and `data_dir`.
    split: name of the split.

  Raises:
    ValueError: the data set has no such split, or files are missing.
  """
  if split not in _SPLIT_LISTS:
    raise ValueError(
      f'oxford_iiit_pet has no split {split!r}; its splits are '
      f'{", ".join(_SPLIT_LISTS)}'
    )
  if data.root:
    base = pathlib.Path(data.root).expanduser().resolve()
    pairs = find_pairs(base, split)
    name = fingerprint.hash_files(
      split,
      (path for pair in pairs for path in pair),
      repr(catalog.INFOS['oxford_iiit_pet']),
    )
  else:
    pairs, name = (), f'{split}_download'
  return PetSegmentation(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=image_pairs.ImagePairConfig(name=name, split=split, pairs=pairs),
  )


def find_pairs(base: pathlib.Path, split: str) -> tuple[image_pairs.Pair, ...]:
  """Returns the (image, mask) files of a split in the order of its list.

  Args:
    base: the folder that both archives were unpacked into.
    split: 'train' or 'test'.

  Raises:
    ValueError: the list is missing or empty, or a file that it names is
      missing.
  """
  listing = base / 'annotations' / _SPLIT_LISTS[split]
  if not listing.is_file():
    raise ValueError(f'{listing}: no such file: {_REMEDY}')
  pairs = []
  for line in text_files.read_text(listing).splitlines():
    stem = line.split()[0] if line.strip() else ''
    if not stem or stem.startswith('#'):
      continue
    image = base / 'images' / f'{stem}.jpg'
    mask = base / 'annotations' / 'trimaps' / f'{stem}.png'
    with errors.catch_and_collect():
      try:
        fields.check_file_name(stem)
      except ValueError as error:
        raise ValueError(f'{listing}: {error}; correct its line') from error
      for path in (image, mask):
        if not os.path.isfile(path):
          raise ValueError(
            f'{path}: no such file, but {listing.name} names it: {_REMEDY}'
          )
      pairs.append((image, mask))
  if not pairs:
    raise ValueError(f'{listing}: the list is empty: {_REMEDY}')
  return tuple(pairs)
