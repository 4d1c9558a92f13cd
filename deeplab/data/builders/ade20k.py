"""ADE20K's scene parsing benchmark: 150 classes, or the 32 most frequent.

`config.data.root` is ADEChallengeData2016, or the folder that holds it: images
in images/{training,validation}, index masks in annotations/. The readings of
the same files differ in the catalog's `id_mapping` alone: `ade20k`,
`ade20k32_other` and `ade20k32_ignore`.

Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017.
"""

from typing import Any

from deeplab.data import catalog
from deeplab.data.builders import files

_FOLDERS = {'train': 'training', 'val': 'validation'}


class Ade20k(files.Files):
  """ADE20K scene parsing, in one of the readings of its 150 classes."""


def builder(data: Any, split: str) -> files.Files:
  """Returns the builder of one split; reads `name`, `root` and `data_dir`.

  Raises:
    ValueError: no such split, or files are missing.
  """
  known = tuple(catalog.info_for(data).splits)
  root = files.base(data, split, known, 'ADEChallengeData2016')
  images = root / 'images' / _FOLDERS[split]
  masks = root / 'annotations' / _FOLDERS[split]
  pairs = files.pair_up(
    data,
    images,
    images.glob('*.jpg'),
    lambda image: [masks / f'{image.stem}.png'],
  )
  return files.make(Ade20k, data, split, pairs)
