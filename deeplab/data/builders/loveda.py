"""LoveDA: rural and urban land cover, seven classes, in its official layout.

`config.data.root` holds {Train,Val}/{Rural,Urban}/{images_png,masks_png}; the
two scenes are one data set. The test masks are not published.

Wang et al., LoveDA: A Remote Sensing Land-Cover Dataset for Domain Adaptive
Semantic Segmentation, NeurIPS Datasets and Benchmarks 2021.
"""

from typing import Any

from deeplab.data.builders import files


class Loveda(files.Files):
  """LoveDA land cover: seven classes, pixels without data ignored."""


def builder(data: Any, split: str) -> files.Files:
  """Returns the builder of one split; reads `root` and `data_dir`.

  Raises:
    ValueError: no such split, or files are missing.
  """
  root = files.base(data, split, ('train', 'val'))
  pairs = files.converted(data, root, split)
  if pairs is None:
    scenes = root / split.title()
    pairs = [
      pair
      for images in (scenes / 'Rural/images_png', scenes / 'Urban/images_png')
      for pair in files.pair_up(
        data,
        images,
        images.glob('*.png'),
        lambda image: [image.parents[1] / 'masks_png' / image.name],
      )
    ]
  return files.make(Loveda, data, split, pairs)
