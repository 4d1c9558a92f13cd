"""LoveDA: rural and urban land cover, seven classes, in its official layout.

`config.data.root` holds {Train,Val}/{Rural,Urban}/{images_png,masks_png}; rural
and urban scenes form one data set. Without a root the split's archive (2.4 to
4.0 GB) is downloaded. The test masks are not published.

Wang et al., LoveDA: A Remote Sensing Land-Cover Dataset for Domain Adaptive
Semantic Segmentation, NeurIPS Datasets and Benchmarks 2021.
"""

import pathlib
from typing import Any

from deeplab.data.builders import image_pairs

URL = 'https://zenodo.org/records/5706578/files'


class Loveda(image_pairs.ImagePairBuilder):
  """LoveDA land cover: seven classes; pixels without data are ignored."""


def make_builder(data: Any, split: str) -> image_pairs.ImagePairBuilder:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `name`, `root` and `data_dir`.
    split: name of the split.

  Raises:
    ValueError: the data set has no such split, or files are missing.
  """

  def find_pairs(root: pathlib.Path) -> list[image_pairs.Pair]:
    pairs = image_pairs.find_mmseg_pairs(data, root, split)
    if pairs is not None:
      return pairs
    scenes = root / split.title()
    return [
      pair
      for images in (scenes / 'Rural/images_png', scenes / 'Urban/images_png')
      for pair in image_pairs.pair_images_with_masks(
        data,
        images,
        images.glob('*.png'),
        lambda image: [image.parents[1] / 'masks_png' / image.name],
      )
    ]

  urls = [f'{URL}/{split.title()}.zip']
  return image_pairs.make_downloadable_builder(
    Loveda, data, split, ('train', 'val'), urls, find_pairs
  )
