"""Cityscapes with its 19 scored classes, in the official layout.

`config.data.root` holds leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and
gtFine/SPLIT/CITY/*_gtFine_labelIds.png. Raw ids are mapped to train ids. Where
a labelIds file is missing, the labelTrainIds file is read, which Cityscapes'
own scripts generate.

Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding,
CVPR 2016.
"""

import dataclasses
import pathlib
from typing import Any

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data.builders import image_pairs
from deeplab.data.preparation import records

_IMAGE_SUFFIX, _IDS_SUFFIX = '_leftImg8bit.png', '_gtFine_labelIds.png'
_TRAIN_IDS_SUFFIX = '_gtFine_labelTrainIds.png'


class CityscapesSegmentation(image_pairs.ImagePairBuilder):
  """Cityscapes semantic segmentation: street scenes, 19 classes."""

  def read_pair(self, pair: image_pairs.Pair) -> list[records.Record]:
    """Returns one record; its label is read from labelIds or labelTrainIds."""
    image, mask = pair
    info = self.builder_config.info
    if mask.name.endswith(_TRAIN_IDS_SUFFIX):
      info = dataclasses.replace(
        info, id_mapping=None, unmapped=None, ignore_label=dataset_info.IGNORE
      )
    return [records.read_record(image, mask, _stem(image), info)]


def make_builder(data: Any, split: str) -> image_pairs.ImagePairBuilder:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `name`, `root` and `data_dir`.
    split: name of the split.

  Raises:
    ValueError: the data set has no such split, or files are missing.
  """
  root = image_pairs.resolve_root(
    data, split, tuple(catalog.info_for(data).splits)
  )
  images = root / 'leftImg8bit' / split

  def masks(image: pathlib.Path) -> list[pathlib.Path]:
    city = root / 'gtFine' / split / image.parent.name
    return [
      city / f'{_stem(image)}{suffix}'
      for suffix in (_IDS_SUFFIX, _TRAIN_IDS_SUFFIX)
    ]

  pairs = image_pairs.pair_images_with_masks(
    data, images, images.glob(f'*/*{_IMAGE_SUFFIX}'), masks
  )
  return image_pairs.make_builder(CityscapesSegmentation, data, split, pairs)


def _stem(image: pathlib.Path) -> str:
  return image.name.removesuffix(_IMAGE_SUFFIX)
