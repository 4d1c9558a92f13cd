"""ISPRS Potsdam and Vaihingen, cut from the raw tiles: six classes.

`config.data.root` holds the tiles and their labels without boundaries under
their official names, up to three levels deep. Both are cut into adjacent
patches of 512 pixels; the last of a row or column is moved back so that it ends
at the border. This gives the published number of patches and mmsegmentation's
names.

Labels are RGB colors: buildings are blue and clutter is red. Black, the
boundaries of objects, is ignored.

Rottensteiner et al., The ISPRS benchmark on urban object classification and 3D
building reconstruction, ISPRS Annals 2012.
"""

from collections.abc import Mapping
import pathlib
import re
from typing import Any

from deeplab.data.builders import image_pairs
from deeplab.data.builders import tiles
from deeplab.data.preparation import records

_PATCH_GRID = tiles.PatchGrid(
  size=512, stride=512, name_format='{stem}_{left}_{top}_{right}_{bottom}'
)

# The tiles of each split.
POTSDAM_TILES: Mapping[str, tuple[str, ...]] = {
  'train': (
    *('2_10', '2_11', '2_12', '3_10', '3_11', '3_12', '4_10', '4_11'),
    *('4_12', '5_10', '5_11', '5_12', '6_7', '6_8', '6_9', '6_10'),
    *('6_11', '6_12', '7_7', '7_8', '7_9', '7_10', '7_11', '7_12'),
  ),
  'val': (
    *('2_13', '2_14', '3_13', '3_14', '4_13', '4_14', '4_15'),
    *('5_13', '5_14', '5_15', '6_13', '6_14', '6_15', '7_13'),
  ),
}
VAIHINGEN_TILES: Mapping[str, tuple[str, ...]] = {
  'train': (
    *('area1', 'area3', 'area5', 'area7', 'area11', 'area13', 'area15'),
    *('area17', 'area21', 'area23', 'area26', 'area28', 'area30', 'area32'),
    *('area34', 'area37'),
  ),
  'val': (
    *('area2', 'area4', 'area6', 'area8', 'area10', 'area12', 'area14'),
    *('area16', 'area20', 'area22', 'area24', 'area27', 'area29', 'area31'),
    *('area33', 'area35', 'area38'),
  ),
}


class Isprs(image_pairs.ImagePairBuilder):
  """ISPRS Potsdam or Vaihingen: patches of orthophotos, six classes."""

  def read_pair(self, pair: image_pairs.Pair) -> list[records.Record]:
    """Returns one record for each patch of a tile."""
    image, mask = pair
    stem = re.sub(r'^top_(potsdam|mosaic_09cm)_|_RGB$', '', image.stem)
    return tiles.read_patches(
      image, mask, stem, self.builder_config.info, _PATCH_GRID
    )


def make_potsdam_builder(data: Any, split: str) -> image_pairs.ImagePairBuilder:
  """Returns the builder of a split of Potsdam.

  Args:
    data: `config.data`; reads `root` and `data_dir`.
    split: name of the split.

  Raises:
    ValueError: the data set has no such split, or files are missing.
  """
  root = image_pairs.resolve_root(data, split, tuple(POTSDAM_TILES))
  pairs = image_pairs.find_mmseg_pairs(data, root, split)
  if pairs is None:
    pairs = _find_pairs(
      data,
      root,
      [f'top_potsdam_{tile}_RGB.tif' for tile in POTSDAM_TILES[split]],
      [
        f'top_potsdam_{tile}_label_noBoundary.tif'
        for tile in POTSDAM_TILES[split]
      ],
    )
  return image_pairs.make_builder(Isprs, data, split, pairs)


def make_vaihingen_builder(
  data: Any, split: str
) -> image_pairs.ImagePairBuilder:
  """Returns the builder of a split of Vaihingen.

  Args:
    data: `config.data`; reads `root` and `data_dir`.
    split: name of the split.

  Raises:
    ValueError: the data set has no such split, or files are missing.
  """
  root = image_pairs.resolve_root(data, split, tuple(VAIHINGEN_TILES))
  pairs = image_pairs.find_mmseg_pairs(data, root, split)
  if pairs is None:
    stems = [f'top_mosaic_09cm_{area}' for area in VAIHINGEN_TILES[split]]
    pairs = _find_pairs(
      data,
      root,
      [f'top/{stem}.tif' for stem in stems],
      [f'{stem}_noBoundary.tif' for stem in stems],
    )
  return image_pairs.make_builder(Isprs, data, split, pairs)


def _find_pairs(
  data: Any, root: pathlib.Path, images: list[str], masks: list[str]
) -> list[image_pairs.Pair]:
  """Returns the pairs of the given names, up to three levels below the root.

  Raises:
    ValueError: one of the files is missing.
  """
  present = image_pairs.glob_nested(root, '*.tif')

  def locate(name: str) -> pathlib.Path:
    matches = (path for path in present if path.match(name))
    return next(matches, root / name)

  mask_of = {
    locate(image): locate(mask)
    for image, mask in zip(images, masks, strict=True)
  }
  return image_pairs.pair_images_with_masks(
    data, root, mask_of, lambda image: [mask_of[image]]
  )
