"""iSAID: objects in aerial images, 15 classes and a background.

`config.data.root` holds a folder a split with the images of DOTA-v1.0 (P*.png)
and the semantic masks of iSAID (P*_instance_color_RGB.png), up to three folders
down. Both are cut into patches of 896 pixels, 384 of them shared, with
mmsegmentation's names.

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

_MASK = '_instance_color_RGB.png'
_GRID = tiles.Grid(
  size=896, stride=512, name='{stem}_{top}_{bottom}_{left}_{right}'
)


class Isaid(image_pairs.Files):
  """iSAID semantic segmentation: patches of aerial images, 16 classes."""

  def read_pair(self, pair: image_pairs.Pair) -> list[records.Record]:
    """Returns the patches of one image."""
    image, mask = pair
    facts = self.builder_config.facts
    return tiles.read(image, mask, image.stem, facts, _GRID)


def builder(data: Any, split: str) -> image_pairs.Files:
  """Returns the builder of one split; reads `root` and `data_dir`.

  Raises:
    ValueError: no such split, or files are missing.
  """
  facts = catalog.info_for(data)
  root = image_pairs.base(data, split, tuple(facts.splits))
  pairs = image_pairs.converted(data, root, split, _MASK)
  if pairs is None:
    pairs = _find(data, root / split)
  return image_pairs.make(Isaid, data, split, pairs)


def _find(data: Any, folder: pathlib.Path) -> list[image_pairs.Pair]:
  """Returns the pairs at or below a split's folder.

  Raises:
    ValueError: an image without a mask, or a mask without an image.
  """
  images = {
    path.stem: path
    for path in image_pairs.below(folder, 'P*.png')
    if '_instance_' not in path.name
  }
  masks = {
    path.name.removesuffix(_MASK): path
    for path in image_pairs.below(folder, f'P*{_MASK}')
  }
  for stem in sorted(images.keys() ^ masks.keys()):
    path = images.get(stem) or masks[stem]
    what = 'mask' if stem in images else 'image'
    error = ValueError(
      f'{path} has no {what} below {folder}: '
      f'{image_pairs.remedy(catalog.info_for(data))}'
    )
    errors.report(error)
  both = [images[stem] for stem in images.keys() & masks.keys()]
  return image_pairs.pair_up(
    data, folder, both, lambda image: [masks[image.stem]]
  )
