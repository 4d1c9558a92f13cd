"""Pascal Context: 59 classes of objects and stuff, with or without the rest.

`config.data.root` is VOC2010, VOCdevkit, or the folder that holds it; without a
root the official archives (1.3 GB) are downloaded. The mask of an image is the
first of these that exists; its kind decides the meaning of its values:

- SegmentationClassContext/*.png of 8 bits: 0..59, as converters write them;
- SegmentationClassContext/*.png of 16 bits: raw ids, 59 of which are classes;
- trainval/*.mat, the official download, in VOC2010 or in one of the two folders
  above it: raw ids of 459 classes; all but those 59 are background.

The splits are the lists in ImageSets/SegmentationContext, which converters
write, or else VOC 2010's own in ImageSets/Main.

Mottaghi et al., The Role of Context for Object Detection and Semantic
Segmentation in the Wild, CVPR 2014.
"""

import pathlib
from typing import Any

import numpy as np

from deeplab.data import catalog
from deeplab.data.builders import image_pairs
from deeplab.data.formats import fields
from deeplab.data.formats import matlab
from deeplab.data.preparation import mask_files

URLS = (
  'http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar',
  'https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz',
)
_RAW_CLASS_IDS = np.array(
  sorted(catalog.INFOS['pascal_context60'].id_mapping or ())
)


class PascalContext(image_pairs.ImagePairBuilder):
  """Pascal Context: 59 classes; the background is scored or ignored."""

  def read_mask(self, path: pathlib.Path) -> np.ndarray:
    """Reads a mask as raw ids, integers [H, W]."""
    if path.suffix == '.mat':
      return _read_mat(path)
    mask = mask_files.read_mask(path)
    if mask.dtype != np.uint8 or mask.ndim == 3:
      return mask
    if mask.max() >= len(_RAW_CLASS_IDS):
      raise ValueError(
        f'{path}: label value {mask.max()} in a mask of 8 bits, which holds '
        f'0 to {len(_RAW_CLASS_IDS) - 1}: convert the masks again, or save raw '
        'ids in 16 bits'
      )
    return _RAW_CLASS_IDS[mask]


def make_builder(data: Any, split: str) -> image_pairs.ImagePairBuilder:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `name`, `root` and `data_dir`.
    split: name of the split.

  Raises:
    ValueError: the data set has no such split, or files are missing.
  """
  known_splits = 'train', 'val', 'trainval'

  def find_pairs(root: pathlib.Path) -> list[image_pairs.Pair]:
    return _find_pairs(
      data, split, image_pairs.archive_folder(root, 'VOCdevkit')
    )

  return image_pairs.make_downloadable_builder(
    PascalContext, data, split, known_splits, URLS, find_pairs
  )


def _find_pairs(
  data: Any, split: str, root: pathlib.Path
) -> list[image_pairs.Pair]:
  """Returns the pairs of VOC2010 at or below a root.

  Raises:
    ValueError: files are missing.
  """
  voc = root / 'VOC2010' if (root / 'VOC2010').is_dir() else root
  sets = [
    voc / 'ImageSets' / name / f'{split}.txt'
    for name in ('SegmentationContext', 'Main')
  ]
  listing = next((path for path in sets if path.is_file()), None)
  if listing is None:
    raise ValueError(
      f'{sets[1]} is missing: '
      f'{image_pairs.download_instructions(catalog.info_for(data))}'
    )
  images = [
    voc / 'JPEGImages' / f'{stem}.jpg'
    for stem in fields.read_file_names(listing)
  ]

  def masks(image: pathlib.Path) -> list[pathlib.Path]:
    mat = f'trainval/{image.stem}.mat'
    return [
      voc / 'SegmentationClassContext' / f'{image.stem}.png',
      *(folder / mat for folder in (voc, voc.parent, voc.parent.parent)),
    ]

  return image_pairs.pair_images_with_masks(data, listing, images, masks)


def _read_mat(path: pathlib.Path) -> np.ndarray:
  """Reads an official MATLAB file; all but the 59 classes become 0."""
  try:
    raw = matlab.read_mask(path, 'LabelMap')
  except ValueError as error:
    raise ValueError(
      f'{path}: damaged, or not a mask of Pascal Context ({error}); unpack '
      'trainval.tar.gz again'
    ) from error
  return np.where(np.isin(raw, _RAW_CLASS_IDS), raw, 0)
