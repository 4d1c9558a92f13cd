"""Cityscapes with its 19 scored classes, in the official layout.

`config.data.root` holds leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and
gtFine/SPLIT/CITY/*_gtFine_labelIds.png. The raw ids become train ids here;
where a labelIds file is missing, the labelTrainIds file that the data set's
own scripts make of it is taken.

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
    """Returns the one record of a frame."""
    image, mask = pair
    facts = self.builder_config.info
    if mask.name.endswith(_TRAIN_IDS_SUFFIX):
      facts = dataclasses.replace(
        facts, id_mapping=None, unmapped=None, ignore_label=dataset_info.IGNORE
      )
    return [records.read_record(image, mask, _stem(image), facts)]


def make_builder(data: Any, split: str) -> image_pairs.ImagePairBuilder:
  """Returns the builder of one split; reads `root` and `data_dir`.

  Raises:
    ValueError: no such split, or files are missing.
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
