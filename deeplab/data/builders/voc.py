"""PASCAL VOC 2012 segmentation with the additional masks of SBD.

`config.data.root` is VOC2012 (JPEGImages, SegmentationClass,
ImageSets/Segmentation/*.txt), or VOCdevkit, or the folder that holds it; every
list file is a split. Without a root the official archives are downloaded.

`trainaug` (10,582 images) is VOC's train plus SBD's images outside VOC's val.
It is read from trainaug.txt, else from train.txt and aug.txt, else from SBD's
own lists. The mask of an image is the official one, which has a void border, if
it exists; else SegmentationClassAug/*.png; else SBD's cls/*.mat.

Everingham et al., IJCV 2015; Hariharan et al., Semantic contours from inverse
detectors, ICCV 2011.
"""

import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data.builders import image_pairs
from deeplab.data.formats import fields
from deeplab.data.formats import matlab
from deeplab.data.preparation import downloads
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import records

VOC_URL = (
  'http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar'
)
SBD_URL = (
  'http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/'
  'semantic_contours/benchmark.tgz'
)
_REMEDY = (
  f'fetch {VOC_URL} (for trainaug also {SBD_URL}), unpack into one FOLDER, and '
  'give --config.data.root=FOLDER'
)


class VocSegmentation(tfds.core.GeneratorBasedBuilder):
  """VOC 2012 semantic segmentation: 20 classes and a background."""

  VERSION = tfds.core.Version('1.1.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return records.tfds_info(self, __doc__, catalog.INFOS['voc'].url)

  def _split_generators(self, dl_manager):
    split = self.builder_config.split
    pairs = self.builder_config.pairs or download_pairs(dl_manager, split)
    return {records.TFDS_SPLIT: self._generate_examples(pairs)}

  def _generate_examples(self, pairs):
    info = catalog.INFOS['voc']
    examples = [
      raw_examples.RawExample(image, mask, info, read_mask)
      for image, mask in pairs
    ]
    return raw_examples.generate_records(
      self, examples, info, self.builder_config.split
    )


def make_builder(data: Any, split: str) -> VocSegmentation:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `root` and `data_dir`.
    split: name of a list file, without its suffix.

  Raises:
    ValueError: VOC is not at the root, the list is missing, or a file that it
      names is missing.
  """
  if data.root:
    voc = locate_voc(data.root)
    pairs = find_pairs(voc, split, locate_sbd(voc))
    name = fingerprint.hash_files(
      split,
      (path for pair in pairs for path in pair),
      repr(catalog.INFOS['voc']),
    )
  else:
    pairs, name = (), f'{split}_download'
  return VocSegmentation(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=image_pairs.ImagePairConfig(name=name, split=split, pairs=pairs),
  )


def locate_voc(root: str) -> pathlib.Path:
  """Returns the VOC2012 folder at or below `root`.

  Raises:
    ValueError: the folder does not exist.
  """
  base = pathlib.Path(root).expanduser().resolve()
  for voc in (base, base / 'VOC2012', base / 'VOCdevkit' / 'VOC2012'):
    if (voc / 'ImageSets' / 'Segmentation').is_dir():
      return voc
  raise ValueError(
    f'config.data.root={root} holds no VOC2012/ImageSets/Segmentation: '
    f'{_REMEDY}'
  )


def find_pairs(
  voc: pathlib.Path, split: str, sbd: pathlib.Path | None
) -> tuple[image_pairs.Pair, ...]:
  """Returns the (image, mask) files of a split in the order of its list.

  Args:
    voc: the VOC2012 folder.
    split: name of the list, without its suffix.
    sbd: the folder of SBD with train.txt, val.txt and cls; None without one.

  Raises:
    ValueError: the list is missing or empty, or a file that it names is
      missing.
  """
  pairs = []
  for stem in _read_stems(voc, split, sbd):
    image = voc / 'JPEGImages' / f'{stem}.jpg'
    masks = [
      voc / 'SegmentationClass' / f'{stem}.png',
      voc / 'SegmentationClassAug' / f'{stem}.png',
      *([sbd / 'cls' / f'{stem}.mat'] if sbd else []),
    ]
    mask = next(filter(os.path.isfile, masks), None)
    with errors.catch_and_collect():
      if mask is None or not os.path.isfile(image):
        missing = masks[0] if os.path.isfile(image) else image
        raise ValueError(
          f'{missing}: no such file, but split {split!r} names it: {_REMEDY}'
        )
      pairs.append((image, mask))
  if not pairs:
    raise ValueError(f'{voc}: split {split!r} is empty: {_REMEDY}')
  return tuple(pairs)


def _read_stems(
  voc: pathlib.Path, split: str, sbd: pathlib.Path | None
) -> list[str]:
  """Returns the stems of the images of a split."""
  lists = voc / 'ImageSets' / 'Segmentation'
  if (lists / f'{split}.txt').is_file():
    return fields.read_file_names(lists / f'{split}.txt')
  if split == 'trainaug' and (lists / 'train.txt').is_file():
    train = fields.read_file_names(lists / 'train.txt')
    if (lists / 'aug.txt').is_file():
      return train + fields.read_file_names(lists / 'aug.txt')
    if sbd:
      stems = {
        *train,
        *fields.read_file_names(sbd / 'train.txt'),
        *fields.read_file_names(sbd / 'val.txt'),
      }
      return sorted(stems - set(fields.read_file_names(lists / 'val.txt')))
  names = ', '.join(sorted(path.stem for path in lists.glob('*.txt')))
  raise ValueError(
    f'{lists}: no list for split {split!r} (there are: {names}): {_REMEDY}'
  )


def locate_sbd(voc: pathlib.Path) -> pathlib.Path | None:
  """Returns SBD's folder in VOC2012 or in the two folders above, or None."""
  for base in (voc, voc.parent, voc.parent.parent):
    for name in ('benchmark_RELEASE', 'VOCaug'):
      if (base / name / 'dataset' / 'cls').is_dir():
        return base / name / 'dataset'
  return None


def read_mask(path: pathlib.Path) -> np.ndarray:
  """Reads a PNG mask or one of SBD's MATLAB files, [H, W] raw ids."""
  if path.suffix != '.mat':
    return mask_files.read_mask(path)
  try:
    return matlab.read_mask(path, 'GTcls', 'Segmentation')
  except ValueError as error:
    raise ValueError(
      f'{path}: damaged, or not a mask of SBD ({error}); unpack {SBD_URL} again'
    ) from error


def download_pairs(
  dl_manager: Any, split: str, remedy: str = _REMEDY
) -> tuple[image_pairs.Pair, ...]:
  """Downloads the official archives and returns the files of a split.

  Args:
    dl_manager: tfds' download manager.
    split: name of a list file, without its suffix.
    remedy: how to get the files without a download, for messages.

  Returns:
    (image, mask) files.

  Raises:
    ValueError: the download fails, or the archives have no such list.
  """
  urls = (VOC_URL, SBD_URL) if split == 'trainaug' else (VOC_URL,)
  voc = locate_voc(
    str(downloads.download_and_unpack(dl_manager, urls, 'voc', remedy))
  )
  return find_pairs(voc, split, locate_sbd(voc))
