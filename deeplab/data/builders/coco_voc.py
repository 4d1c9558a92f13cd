"""COCO 2017 and VOC 2012 as one data set, as STMicroelectronics combines them.

`config.data.root` holds COCO 2017 (laid out as in `coco.py`) and VOC 2012 with
SBD's masks (as in `voc.py`), both unpacked into it. `train` is COCO's train2017
and VOC's trainaug; `val` is VOC's val. Without a root all official archives are
downloaded, about 22 GB.

`coco_voc21` takes the images of COCO that have an instance of VOC's classes
with an area above 1,000 pixels; a later instance is drawn over an earlier one.
`coco_voc_person` takes the images of both sets with more than 1,000 pixels of
persons; `val` is then filled up to VOC's 1,449 images from the beginning of
`train`, which loses those.

VOC's void border counts as background. In STMicroelectronics' tools the order
of a directory listing decides which images fill up `val`, so `val` of persons
differs from the published one in single images.

STM32 model zoo, semantic_segmentation/datasets.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from deeplab.data import catalog
from deeplab.data.builders import coco
from deeplab.data.builders import image_pairs
from deeplab.data.builders import voc
from deeplab.data.formats import coco_annotations
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import records

MIN_AREA = 1000  # pixels of one COCO instance, or of all persons of an image
VAL_SIZE = 1449
PERSON_ID = 15  # VOC's class id
_REMEDY = f'{coco.REMEDY}; there unpack {voc.VOC_URL} and {voc.SBD_URL} as well'


PairsBySplit = dict[str, tuple[image_pairs.Pair, ...]]


@dataclasses.dataclass(eq=False)
class CocoVocConfig(coco.CocoConfig):
  """One split of one data set.

  Attributes:
    pairs: (image, mask) files of VOC by split.
  """

  pairs: PairsBySplit = dataclasses.field(default_factory=dict, repr=False)


class CocoVoc(tfds.core.GeneratorBasedBuilder):
  """COCO 2017 and VOC 2012 with VOC's 21 classes, or with persons only."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return records.tfds_info(self, __doc__, catalog.INFOS['cocoseg21'].url)

  def _split_generators(self, dl_manager):
    paths, pairs = self.builder_config.paths, self.builder_config.pairs
    if not paths:
      paths = coco.download_split(dl_manager, 'train', remedy=_REMEDY)
      pairs = {
        'train': voc.download_pairs(dl_manager, 'trainaug', _REMEDY),
        'val': voc.download_pairs(dl_manager, 'val', _REMEDY),
      }
    annotations, images = paths
    return {
      records.TFDS_SPLIT: self._generate_examples(annotations, images, pairs)
    }

  def _generate_examples(self, annotations, images, pairs):
    config = self.builder_config
    info = catalog.INFOS[config.dataset]
    train, val = (
      [
        raw_examples.RawExample(image, mask, info, voc.read_mask)
        for image, mask in pairs[split]
      ]
      for split in ('train', 'val')
    )
    index = coco_annotations.read_annotations(annotations)
    train += coco.make_raw_examples(
      images,
      index,
      (
        (entry, annotations)
        for entry, annotations in coco.select_voc_annotations(index)
        if any(a['area'] > MIN_AREA for a in annotations)
      ),
      config.dataset,
      None,
    )
    if config.dataset == 'coco_voc_person':
      train, val = _select_persons(train, val)
    examples = train if config.split == 'train' else val
    return raw_examples.generate_records(self, examples, info, config.split)


def make_builder(data: Any, split: str) -> CocoVoc:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `name`, `root` and `data_dir`.
    split: 'train' or 'val'.

  Raises:
    ValueError: an unknown split, or COCO or VOC is missing at the root.
  """
  image_pairs.check_split(data, split, coco.SPLITS)
  paths, pairs, name = None, {}, f'{data.name}_{split}_download'
  if data.root:
    paths = coco.locate_split(data.root, 'train', remedy=_REMEDY)
    base = voc.locate_voc(data.root)
    sbd = voc.locate_sbd(base)
    pairs = {
      'train': voc.find_pairs(base, 'trainaug', sbd),
      'val': voc.find_pairs(base, 'val', sbd),
    }
    voc_files = [
      file for part in pairs.values() for pair in part for file in pair
    ]
    name = fingerprint.hash_files(
      f'{data.name}_{split}',
      (*paths, *voc_files),
      repr(catalog.INFOS[data.name]),
    )
  return CocoVoc(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=CocoVocConfig(
      name=name, dataset=data.name, split=split, paths=paths, pairs=pairs
    ),
  )


def _select_persons(
  train: Sequence[raw_examples.RawExample],
  val: Sequence[raw_examples.RawExample],
) -> tuple[list[raw_examples.RawExample], list[raw_examples.RawExample]]:
  """Returns the (train, val) examples with persons, `val` filled up.

  Images of `train` are read here only until `val` is full. The others are
  filtered while they are prepared, so that no polygon is rasterized twice.
  """
  candidates = [
    dataclasses.replace(example, predicate=_has_person)
    for example in (*val, *train)
  ]
  selected, count = [], 0
  bar = tqdm.tqdm(
    total=VAL_SIZE,
    desc='Choosing persons for val',
    unit=' images',
    disable=None,
  )
  results = raw_examples.evaluate_predicates(candidates)
  with bar, contextlib.closing(results):
    pairs = zip((*val, *train), results, strict=True)
    for count, (example, has_person) in enumerate(pairs, 1):
      if has_person:
        selected.append(example)
        bar.update()
      if count >= len(val) and len(selected) >= VAL_SIZE:
        break
  return candidates[max(count, len(val)) :], selected


def _has_person(mask: np.ndarray) -> bool:
  """Returns True if the mask has more than 1,000 pixels of VOC's person."""
  return int(np.count_nonzero(mask == PERSON_ID)) > MIN_AREA
