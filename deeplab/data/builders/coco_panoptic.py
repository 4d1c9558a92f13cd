"""COCO 2017 panoptic, read as semantic: 80 things and 53 stuffs, 133 classes.

`config.data.root` holds annotations/panoptic_{train,val}2017.json, the PNG
files in annotations/panoptic_{train,val}2017, and the images in
{train,val}2017 or images/{train,val}2017; `train` and `val` are the splits.
Without a root the official archives are downloaded: 19 GB for `train`, 2 GB
for `val`.

A PNG's colour is a segment's id, red + 256 green + 65536 blue, and the JSON
file says the segment's category. A segment's pixels take its category, crowds
like the rest; black is nobody's and ignored. Train ids follow the category ids.

Kirillov et al., Panoptic Segmentation, CVPR 2019; the format: panopticapi.
"""

from collections.abc import Iterable
import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data.builders import coco
from deeplab.data.builders import image_pairs
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import raw_files
from deeplab.data.preparation import records

_REMEDY = (
  f'{coco.REMEDY}; fetch panoptic_annotations_trainval{coco.YEAR}.zip as well, '
  'and unpack the two archives in its folder annotations'
)


class CocoPanoptic(tfds.core.GeneratorBasedBuilder):
  """COCO 2017 panoptic as semantic segmentation of 133 classes."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return records.tfds_info(self, __doc__, catalog.INFOS['coco_panoptic'].url)

  def _split_generators(self, dl_manager):
    split = self.builder_config.split
    found = self.builder_config.paths or coco.download_split(
      dl_manager, split, 'panoptic', _REMEDY
    )
    return {records.TFDS_SPLIT: self._generate_examples(*found)}

  def _generate_examples(self, annotations, images):
    sources = find_examples(annotations, images)
    facts = catalog.INFOS['coco_panoptic']
    return raw_examples.generate_records(
      self, sources, facts, self.builder_config.split
    )


def make_builder(data: Any, split: str) -> CocoPanoptic:
  """Returns the builder of one split; reads `root` and `data_dir`.

  Raises:
    ValueError: an unknown split, or the root does not hold it.
  """
  image_pairs.check_split(data, split, coco.SPLITS)
  found, name = None, f'{split}_download'
  if data.root:
    found = coco.locate_split(data.root, split, 'panoptic', _REMEDY)
    masks = found[0].with_suffix('')
    if not masks.is_dir():
      raise ValueError(f'{masks}: no such folder of PNG files: {_REMEDY}')
    facts = catalog.INFOS['coco_panoptic']
    name = fingerprint.hash_files(split, (*found, masks), facts)
  return CocoPanoptic(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=coco.CocoConfig(
      name=name, dataset='coco_panoptic', split=split, paths=found
    ),
  )


def find_examples(
  annotations: pathlib.Path, images: pathlib.Path
) -> list[raw_examples.RawExample]:
  """Returns the examples of a split.

  Args:
    annotations: the JSON file; the PNG files lie in the folder of its stem.
    images: the folder of the images.

  Raises:
    ValueError: a damaged JSON file, or a file that it names is missing.
  """
  index = coco.read_annotations(annotations)
  found = []
  for entry in index.images:
    with errors.catch_and_collect():
      own = index.annotations.get(entry['id'], [])
      if len(own) != 1:
        raise ValueError(
          f'{annotations}: image {entry["id"]} has {len(own)} annotations; '
          'panoptic files have one an image'
        )
      mask = annotations.with_suffix('') / own[0]['file_name']
      if not mask.is_file():
        raise ValueError(f'{mask}: no such file, but {annotations} names it')
      found.append(
        raw_examples.RawExample(
          coco.require_image_file(images, entry, annotations),
          mask,
          catalog.INFOS['coco_panoptic'],
          functools.partial(
            _read_category_ids, segments=own[0]['segments_info']
          ),
        )
      )
  return found


def _read_category_ids(
  path: pathlib.Path, segments: Iterable[dict[str, Any]]
) -> np.ndarray:
  """Reads a PNG of segments as category ids, 0 where there are none."""
  colors = raw_files.read_mask(path)
  if colors.ndim != 3:
    raise ValueError(f'{path}: panoptic PNG files are RGB; replace the mask')
  ids = colors.astype(np.int64) @ (1, 256, 65536)
  found, inverse = np.unique(ids, return_inverse=True)
  category = {0: 0} | {s['id']: s['category_id'] for s in segments}
  missing = sorted(set(found.tolist()) - set(category))
  if missing:
    raise ValueError(
      f'{path}: segment {missing[0]} is not in the JSON file; the two are not '
      'of one release'
    )
  table = np.array([category[i] for i in found.tolist()], np.int32)
  return table[inverse].reshape(ids.shape)
