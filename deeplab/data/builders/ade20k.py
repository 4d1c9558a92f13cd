"""ADE20K's scene parsing benchmark: 150 classes, or the 32 most frequent.

`config.data.root` is ADEChallengeData2016, or the folder that holds it: images
in images/{training,validation}, index masks in annotations/. Without a root the
official archive (0.9 GB) is downloaded. `ade20k`, `ade20k32_other` and
`ade20k32_ignore` read the same files and differ only in the catalog's
`id_mapping`.

Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017.
"""

import pathlib
from typing import Any

from deeplab.data.builders import image_pairs

URL = 'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip'
_SPLIT_FOLDERS = {'train': 'training', 'val': 'validation'}


class Ade20k(image_pairs.ImagePairBuilder):
  """ADE20K scene parsing with 150 classes, or with the 32 most frequent."""


def make_builder(data: Any, split: str) -> image_pairs.ImagePairBuilder:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `name`, `root` and `data_dir`.
    split: name of the split.

  Raises:
    ValueError: the data set has no such split, or files are missing.
  """

  def find_pairs(root: pathlib.Path) -> list[image_pairs.Pair]:
    root = image_pairs.archive_folder(root, 'ADEChallengeData2016')
    images = root / 'images' / _SPLIT_FOLDERS[split]
    masks = root / 'annotations' / _SPLIT_FOLDERS[split]
    return image_pairs.pair_images_with_masks(
      data,
      images,
      images.glob('*.jpg'),
      lambda image: [masks / f'{image.stem}.png'],
    )

  return image_pairs.make_downloadable_builder(
    Ade20k, data, split, tuple(_SPLIT_FOLDERS), (URL,), find_pairs
  )
