"""COCO 2017 and VOC 2012 as one set, as STMicroelectronics' tools make it.

`config.data.root` holds COCO 2017 (see `coco`) and VOC 2012 with SBD's masks
(see `voc`), both unpacked into it. `train` is COCO's train2017 and VOC's
trainaug, `val` VOC's val.

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

import dataclasses
import itertools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data import faults
from deeplab.data import fingerprint
from deeplab.data import records
from deeplab.data import sources as sources_lib
from deeplab.data.builders import coco
from deeplab.data.builders import files
from deeplab.data.builders import voc

LEAST_AREA = 1000  # of one instance of COCO, or of an image's persons
VAL_SIZE = 1449
PERSON = 15  # VOC's id
_REMEDY = f'{coco.REMEDY}; there unpack {voc.VOC_URL} and {voc.SBD_URL} as well'


@dataclasses.dataclass(eq=False)
class CocoVocConfig(coco.CocoConfig):
  """One split of one reading.

  Attributes:
    pairs: (image, mask) files of VOC, by the split's name.
  """

  pairs: dict[str, tuple[files.Pair, ...]] = dataclasses.field(
    default_factory=dict, repr=False
  )


class CocoVoc(tfds.core.GeneratorBasedBuilder):
  """COCO 2017 and VOC 2012, of 21 classes or of persons alone."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return records.builder_info(self, __doc__, catalog.INFOS['cocoseg21'].url)

  def _split_generators(self, dl_manager):
    del dl_manager
    return {records.SPLIT: self._generate_examples()}

  def _generate_examples(self):
    config = self.builder_config
    facts = catalog.INFOS[config.dataset]
    train, val = (
      [
        sources_lib.Source(image, mask, facts, voc.read_mask)
        for image, mask in config.pairs[split]
      ]
      for split in ('train', 'val')
    )
    index = coco.read_index(config.annotations)
    train += coco.sources_of(
      config.images,
      index,
      (
        (entry, shown)
        for entry, shown in coco.of_voc_classes(index)
        if any(annotation['area'] > LEAST_AREA for annotation in shown)
      ),
      config.dataset,
      None,
    )
    if config.dataset == 'coco_voc_person':
      val, shown = (
        list(filter(_shows_person, val)),
        filter(_shows_person, train),
      )
      val += itertools.islice(shown, max(0, VAL_SIZE - len(val)))
      train = list(shown) if config.split == 'train' else []
    sources = train if config.split == 'train' else val
    return sources_lib.generate(self, sources, facts, config.split)


def builder(data: Any, split: str) -> CocoVoc:
  """Returns the builder of one split of `config.data.name`.

  Reads `name`, `root` and `data_dir`.

  Raises:
    ValueError: COCO's or VOC's part is missing at the root, or an unknown
      split.
  """
  if split not in ('train', 'val'):
    raise ValueError(
      f'{data.name} has no split {split!r}; its splits are train, val'
    )
  annotations, images = coco.locate(data.root, 'train', remedy=_REMEDY)
  base = voc.locate(data.root)
  sbd = voc.locate_sbd(base)
  pairs = {
    'train': voc.find_pairs(base, 'trainaug', sbd),
    'val': voc.find_pairs(base, 'val', sbd),
  }
  paths = (path for part in pairs.values() for pair in part for path in pair)
  return CocoVoc(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=CocoVocConfig(
      name=fingerprint.of(
        f'{data.name}_{split}',
        (annotations, images, *paths),
        catalog.INFOS[data.name],
      ),
      dataset=data.name,
      split=split,
      annotations=annotations,
      images=images,
      pairs=pairs,
    ),
  )


def _shows_person(source: sources_lib.Source) -> bool:
  """Returns whether enough pixels are VOC's 15; a void border is none."""
  with faults.reported():
    raw = source.read(source.annotation)
    return int(np.count_nonzero(raw == PERSON)) > LEAST_AREA
  return False
