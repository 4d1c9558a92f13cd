"""COCO 2017 panoptic as semantic segmentation: 80 things and 53 stuff classes.

`config.data.root` holds annotations/panoptic_{train,val}2017.json, the PNG
files in annotations/panoptic_{train,val}2017, and the images in
{train,val}2017 or images/{train,val}2017; the splits are `train` and `val`.
Without a root the official archives are downloaded: 19 GB for `train`, 2 GB
for `val`.

The color of a pixel is the id of its segment, red + 256 green + 65536 blue;
the JSON file gives the category of each segment. Crowd segments count as well;
black pixels belong to no segment and are ignored. Train ids are in the order of
the category ids.

Kirillov et al., Panoptic Segmentation, CVPR 2019; the format: panopticapi.
"""

import functools
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data.builders import coco
from deeplab.data.builders import image_pairs
from deeplab.data.formats import coco_annotations
from deeplab.data.formats import fields
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_examples
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
    paths = self.builder_config.paths or coco.download_split(
      dl_manager, split, 'panoptic', _REMEDY
    )
    return {records.TFDS_SPLIT: self._generate_examples(*paths)}

  def _generate_examples(self, annotations, images):
    examples = find_examples(annotations, images)
    info = catalog.INFOS['coco_panoptic']
    return raw_examples.generate_records(
      self, examples, info, self.builder_config.split
    )


def make_builder(data: Any, split: str) -> CocoPanoptic:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `root` and `data_dir`.
    split: 'train' or 'val'.

  Raises:
    ValueError: an unknown split, or the split is missing at the root.
  """
  image_pairs.check_split(data, split, coco.SPLITS)
  paths, name = None, f'{split}_download'
  if data.root:
    paths = coco.locate_split(data.root, split, 'panoptic', _REMEDY)
    masks = paths[0].with_suffix('')
    if not masks.is_dir():
      raise ValueError(f'{masks}: no such folder of PNG files: {_REMEDY}')
    info = catalog.INFOS['coco_panoptic']
    name = fingerprint.hash_files(split, (*paths, masks), repr(info))
  return CocoPanoptic(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=coco.CocoConfig(
      name=name, dataset='coco_panoptic', split=split, paths=paths
    ),
  )


def find_examples(
  annotations: pathlib.Path, images: pathlib.Path
) -> list[raw_examples.RawExample]:
  """Returns the examples of a split.

  Args:
    annotations: the JSON file; the PNG files are in the folder beside it that
      has its stem as name.
    images: the folder of images.

  Raises:
    ValueError: the JSON file is damaged, or a file that it names is missing.
  """
  index = coco_annotations.read_annotations(annotations)
  examples = []
  for entry in index.images:
    with errors.catch_and_collect():
      matches = index.annotations.get(fields.get_id(entry, 'id'), [])
      if len(matches) != 1:
        raise ValueError(
          f'{annotations}: image {entry["id"]} has {len(matches)} annotations; '
          'panoptic files have one for each image'
        )
      name, segments, size = _read_entry(entry, matches[0], annotations)
      mask = annotations.with_suffix('') / name
      if not os.path.isfile(mask):
        raise ValueError(
          f'{mask}: no such file, but {annotations} names it: {_REMEDY}'
        )
      examples.append(
        raw_examples.RawExample(
          coco_annotations.require_image_file(images, entry, annotations),
          mask,
          catalog.INFOS['coco_panoptic'],
          functools.partial(_read_category_ids, segments=segments, size=size),
        )
      )
  return examples


def _read_entry(
  entry: dict[str, Any], annotation: dict[str, Any], path: pathlib.Path
) -> tuple[str, dict[int, int], tuple[int, int]]:
  """Returns the PNG file of an image, its categories by segment, its size."""
  try:
    name = fields.check_file_name(fields.get_text(annotation, 'file_name'))
    segments = {
      fields.get_whole(segment, 'id'): fields.get_whole(segment, 'category_id')
      for segment in fields.get_entries(annotation, 'segments_info')
    }
    return name, segments, fields.get_size(entry)
  except ValueError as error:
    raise ValueError(
      f'{path}: image {entry["file_name"]}: {error}; correct its entry'
    ) from error


def _read_category_ids(
  path: pathlib.Path, segments: dict[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Reads a PNG of segments as category ids, [H, W] int64; 0 is no segment."""
  colors = mask_files.read_mask(path)
  if colors.ndim != 3:
    raise ValueError(
      f'{path}: panoptic PNG files must be RGB; replace the file'
    )
  if colors.shape[:2] != size:  # before the ids of a huge one are sorted
    raise ValueError(
      f'{path}: mask of {colors.shape[1]}x{colors.shape[0]} pixels for an '
      f'image of {size[1]}x{size[0]}; replace the file'
    )
  red, green, blue = (colors[..., i].astype(np.uint32) for i in range(3))
  ids = red | green << 8 | blue << 16
  values = np.unique(ids)
  category = {0: 0} | segments
  missing = sorted(set(values.tolist()) - set(category))
  if missing:
    raise ValueError(
      f'{path}: segment {missing[0]} is not in the JSON file; fetch both from '
      'the same release'
    )
  table = np.array([category[i] for i in values.tolist()], np.int64)
  return table[np.searchsorted(values, ids)]
