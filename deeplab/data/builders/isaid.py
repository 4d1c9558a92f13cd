"""iSAID: objects in aerial images, 15 classes and a background.

`config.data.root` holds one folder for each split with the images of DOTA-v1.0
(P*.png) and the semantic masks of iSAID (P*_instance_color_RGB.png), up to
three levels deep. Both are cut into patches of 896 pixels that overlap by 384,
with mmsegmentation's names.

Waqas Zamir et al., iSAID: A Large-scale Dataset for Instance Segmentation in
Aerial Images, CVPR Workshops 2019.
"""

import pathlib
from typing import Any

from deeplab.data import catalog
from deeplab.data.builders import image_pairs
from deeplab.data.builders import tiles
from deeplab.data.preparation import errors
from deeplab.data.preparation import records

_MASK_SUFFIX = '_instance_color_RGB.png'
_PATCH_GRID = tiles.PatchGrid(
  size=896, stride=512, name_format='{stem}_{top}_{bottom}_{left}_{right}'
)


class Isaid(image_pairs.ImagePairBuilder):
  """iSAID semantic segmentation: patches of aerial images, 16 classes."""

  def read_pair(self, pair: image_pairs.Pair) -> list[records.Record]:
    """Returns one record for each patch of an image."""
    image, mask = pair
    info = self.builder_config.info
    return tiles.read_patches(image, mask, image.stem, info, _PATCH_GRID)


def make_builder(data: Any, split: str) -> image_pairs.ImagePairBuilder:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `name`, `root` and `data_dir`.
    split: name of the split.

  Raises:
    ValueError: the data set has no such split, or files are missing.
  """
  known_splits = tuple(catalog.info_for(data).splits)
  root = image_pairs.resolve_root(data, split, known_splits)
  pairs = image_pairs.find_mmseg_pairs(data, root, split, _MASK_SUFFIX)
  if pairs is None:
    pairs = _find_pairs(data, root / split)
  return image_pairs.make_builder(Isaid, data, split, pairs)


def _find_pairs(data: Any, folder: pathlib.Path) -> list[image_pairs.Pair]:
  """Returns the pairs in the folder of a split, up to three levels deep.

  Raises:
    ValueError: an image has no mask, or a mask has no image.
  """
  images = {
    path.stem: path
    for path in image_pairs.glob_nested(folder, 'P*.png')
    if '_instance_' not in path.name
  }
  masks = {
    path.name.removesuffix(_MASK_SUFFIX): path
    for path in image_pairs.glob_nested(folder, f'P*{_MASK_SUFFIX}')
  }
  for stem in sorted(images.keys() ^ masks.keys()):
    path = images.get(stem) or masks[stem]
    partner = 'mask' if stem in images else 'image'
    error = ValueError(
      f'{path} has no {partner} below {folder}: '
      f'{image_pairs.download_instructions(catalog.info_for(data))}'
    )
    errors.raise_or_collect(error)
  paired = [images[stem] for stem in images.keys() & masks.keys()]
  return image_pairs.pair_images_with_masks(
    data, folder, paired, lambda image: [masks[image.stem]]
  )
