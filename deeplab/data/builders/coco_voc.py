"""COCO 2017 and VOC 2012 as one set, as STMicroelectronics' tools make it.

`config.data.root` holds COCO 2017 (see `coco`) and VOC 2012 with SBD's masks
(see `voc`), both unpacked into it. `train` is COCO's train2017 and VOC's
trainaug, `val` VOC's val. Without a root the official archives of all of them
are downloaded, some 22 GB.

With 21 classes, COCO's images that show an instance of VOC's classes with an
area of more than 1,000 pixels are taken; a later instance is drawn over an
earlier one. With the person alone, images with more than 1,000 pixels of
persons are taken of both sets, and `val`, short by then, is topped up to its
old number of 1,449 from the beginning of `train`, which loses those.

VOC's void border counts as background. Which images of `train` top up `val`
depends there on the order of a folder's listing, so the persons' `val` is not
the published one to the image.

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
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import records

MIN_AREA = 1000  # of one instance of COCO, or of an image's persons
VAL_SIZE = 1449
PERSON_ID = 15  # VOC's id
_REMEDY = f'{coco.REMEDY}; there unpack {voc.VOC_URL} and {voc.SBD_URL} as well'


PairsBySplit = dict[str, tuple[image_pairs.Pair, ...]]


@dataclasses.dataclass(eq=False)
class CocoVocConfig(coco.CocoConfig):
  """One split of one reading.

  Attributes:
    pairs: (image, mask) files of VOC, by the split's name.
  """

  pairs: PairsBySplit = dataclasses.field(default_factory=dict, repr=False)


class CocoVoc(tfds.core.GeneratorBasedBuilder):
  """COCO 2017 and VOC 2012, of 21 classes or of persons alone."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return records.tfds_info(self, __doc__, catalog.INFOS['cocoseg21'].url)

  def _split_generators(self, dl_manager):
    found, pairs = self.builder_config.paths, self.builder_config.pairs
    if not found:
      found = coco.download_split(dl_manager, 'train', remedy=_REMEDY)
      pairs = {
        'train': voc.download_pairs(dl_manager, 'trainaug', _REMEDY),
        'val': voc.download_pairs(dl_manager, 'val', _REMEDY),
      }
    annotations, images = found
    return {
      records.TFDS_SPLIT: self._generate_examples(annotations, images, pairs)
    }

  def _generate_examples(self, annotations, images, pairs):
    config = self.builder_config
    facts = catalog.INFOS[config.dataset]
    train, val = (
      [
        raw_examples.RawExample(image, mask, facts, voc.read_mask)
        for image, mask in pairs[split]
      ]
      for split in ('train', 'val')
    )
    index = coco.read_annotations(annotations)
    train += coco.make_raw_examples(
      images,
      index,
      (
        (entry, shown)
        for entry, shown in coco.select_voc_annotations(index)
        if any(annotation['area'] > MIN_AREA for annotation in shown)
      ),
      config.dataset,
      None,
    )
    if config.dataset == 'coco_voc_person':
      train, val = _select_persons(train, val)
    sources = train if config.split == 'train' else val
    return raw_examples.generate_records(self, sources, facts, config.split)


def make_builder(data: Any, split: str) -> CocoVoc:
  """Returns the builder of one split of `config.data.name`.

  Reads `name`, `root` and `data_dir`.

  Raises:
    ValueError: COCO's or VOC's part is missing at the root, or an unknown
      split.
  """
  image_pairs.check_split(data, split, coco.SPLITS)
  found, pairs, name = None, {}, f'{data.name}_{split}_download'
  if data.root:
    found = coco.locate_split(data.root, 'train', remedy=_REMEDY)
    base = voc.locate_voc(data.root)
    sbd = voc.locate_sbd(base)
    pairs = {
      'train': voc.find_pairs(base, 'trainaug', sbd),
      'val': voc.find_pairs(base, 'val', sbd),
    }
    paths = (path for part in pairs.values() for pair in part for path in pair)
    name = fingerprint.hash_files(
      f'{data.name}_{split}', (*found, *paths), catalog.INFOS[data.name]
    )
  return CocoVoc(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=CocoVocConfig(
      name=name, dataset=data.name, split=split, found=found, pairs=pairs
    ),
  )


def _select_persons(
  train: Sequence[raw_examples.RawExample],
  val: Sequence[raw_examples.RawExample],
) -> tuple[list[raw_examples.RawExample], list[raw_examples.RawExample]]:
  """Returns (train, val) of persons alone.

  Only those images of `train` are looked at that come before the last one
  which tops up `val`. Whether the others show a person is told while they are
  prepared, so that no polygon is drawn twice.
  """
  asked = [
    dataclasses.replace(source, predicate=_has_person)
    for source in (*val, *train)
  ]
  chosen, count = [], 0
  bar = tqdm.tqdm(
    total=VAL_SIZE,
    desc='Choosing persons for val',
    unit=' images',
    disable=None,
  )
  verdicts = raw_examples.evaluate_predicates(asked)
  with bar, contextlib.closing(verdicts):
    pairs = zip((*val, *train), verdicts, strict=True)
    for count, (source, shows) in enumerate(pairs, 1):
      if shows:
        chosen.append(source)
        bar.update()
      if count >= len(val) and len(chosen) >= VAL_SIZE:
        break
  return asked[max(count, len(val)) :], chosen


def _has_person(mask: np.ndarray) -> bool:
  """Returns whether enough pixels are VOC's 15; a void border is none."""
  return int(np.count_nonzero(mask == PERSON_ID)) > MIN_AREA
