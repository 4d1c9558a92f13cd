"""COCO 2017 with VOC's 21 classes, in two variants: torchvision's and TI's.

`config.data.root` holds annotations/instances_{train,val}2017.json and the
images in {train,val}2017 or in images/{train,val}2017; the splits are `train`
and `val`. Without a root the official archives are downloaded: 18 GB for
`train`, 1 GB for `val`.

Instances of VOC's 20 classes are drawn, crowds included; everything else is
background. Pixels that belong to two or more instances are ignored. `train` has
the images whose instances cover more than 1,000 pixels together. `cocoseg21`
evaluates all images of `val`, as torchvision does. `cocoseg21_ti` evaluates
only those with more than 1,000 pixels, as Texas Instruments does; its mIoU is
not comparable.

Lin et al., Microsoft COCO, ECCV 2014; torchvision, references/segmentation;
edgeai-torchvision, references/segmentation.
"""

from collections.abc import Iterable
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data.builders import image_pairs
from deeplab.data.formats import coco_annotations
from deeplab.data.formats import fields
from deeplab.data.preparation import downloads
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import records

YEAR = '2017'
URL = 'http://images.cocodataset.org'
SPLITS = ('train', 'val')
# Training images must have more than this area of VOC's classes, in pixels, as
# the sum of the annotations' `area`.
MIN_AREA = 1000
REMEDY = (
  f'fetch train{YEAR}.zip, val{YEAR}.zip and annotations_trainval{YEAR}.zip '
  'from https://cocodataset.org/, unpack them into one FOLDER, and give '
  '--config.data.root=FOLDER'
)


@dataclasses.dataclass(eq=False)
class CocoConfig(tfds.core.BuilderConfig):
  """One split of one data set.

  Attributes:
    dataset: name in the catalog.
    split: 'train' or 'val'.
    paths: the JSON file and the folder of images; None to download them.
  """

  dataset: str = ''
  split: str = ''
  paths: tuple[pathlib.Path, pathlib.Path] | None = dataclasses.field(
    default=None, repr=False
  )


class CocoSeg21(tfds.core.GeneratorBasedBuilder):
  """COCO 2017 with VOC's 20 classes and background."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return records.tfds_info(self, __doc__, catalog.INFOS['cocoseg21'].url)

  def _split_generators(self, dl_manager):
    split = self.builder_config.split
    paths = self.builder_config.paths or download_split(dl_manager, split)
    return {records.TFDS_SPLIT: self._generate_examples(*paths)}

  def _generate_examples(self, annotations, images):
    config = self.builder_config
    index = coco_annotations.read_annotations(annotations)
    take_all = config.dataset == 'cocoseg21' and config.split == 'val'
    examples = make_raw_examples(
      images,
      index,
      (
        (entry, annotations)
        for entry, annotations in select_voc_annotations(index)
        if take_all or _sum_areas(annotations, index.path) > MIN_AREA
      ),
      config.dataset,
      dataset_info.IGNORE,
    )
    info = catalog.INFOS[config.dataset]
    return raw_examples.generate_records(self, examples, info, config.split)


def make_builder(data: Any, split: str) -> CocoSeg21:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `name`, `root` and `data_dir`.
    split: 'train' or 'val'.

  Raises:
    ValueError: an unknown split, or the split is missing at the root.
  """
  image_pairs.check_split(data, split, SPLITS)
  paths, name = None, f'{data.name}_{split}_download'
  if data.root:
    paths = locate_split(data.root, split)
    name = fingerprint.hash_files(split, paths, repr(catalog.info_for(data)))
  return CocoSeg21(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=CocoConfig(name=name, dataset=data.name, split=split, paths=paths),
  )


def download_split(
  dl_manager: Any, split: str, kind: str = 'instances', remedy: str = REMEDY
) -> tuple[pathlib.Path, pathlib.Path]:
  """Downloads the official archives of a split.

  Args:
    dl_manager: tfds' download manager.
    split: 'train' or 'val'.
    kind: first part of the name of the JSON file.
    remedy: how to get the files without a download, for messages.

  Returns:
    The JSON file and the folder of images.

  Raises:
    ValueError: the download fails, or the archives have no such split.
  """
  prefix = '' if kind == 'instances' else f'{kind}_'
  urls = (
    f'{URL}/annotations/{prefix}annotations_trainval{YEAR}.zip',
    f'{URL}/zips/{split}{YEAR}.zip',
  )
  base = downloads.download_and_unpack(dl_manager, urls, 'coco', remedy)
  return locate_split(str(base), split, kind, remedy)


def locate_split(
  root: str, split: str, kind: str = 'instances', remedy: str = REMEDY
) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns the JSON file and the folder of images of a split.

  Args:
    root: `config.data.root`.
    split: 'train' or 'val'.
    kind: first part of the name of the JSON file.
    remedy: how to get the files, for messages.

  Raises:
    ValueError: the file or the folder is missing.
  """
  base = pathlib.Path(root).expanduser().resolve()
  annotations = base / 'annotations' / f'{kind}_{split}{YEAR}.json'
  if not annotations.is_file():
    raise ValueError(
      f'{annotations}: no such file for split {split!r}: {remedy}'
    )
  for folder in (base, base / 'images'):
    if (folder / f'{split}{YEAR}').is_dir():
      return annotations, folder / f'{split}{YEAR}'
  raise ValueError(
    f'{base / f"{split}{YEAR}"}: no such folder of images: {remedy}'
  )


def select_voc_annotations(
  index: coco_annotations.CocoAnnotations,
) -> Iterable[tuple[dict[str, Any], list[dict[str, Any]]]]:
  """Yields the entry of each image and its annotations of VOC's classes.

  Raises:
    ValueError: an annotation has no category.
  """
  for entry in index.images:
    annotations = index.annotations.get(fields.get_id(entry, 'id'), ())
    try:
      selected = [
        annotation
        for annotation in annotations
        if fields.get_id(annotation, 'category_id') in catalog.COCO_TO_VOC
      ]
    except ValueError as error:
      raise ValueError(
        f'{index.path}: an annotation of {entry["file_name"]}: {error}'
      ) from error
    yield entry, selected


def _sum_areas(
  annotations: Iterable[dict[str, Any]], path: pathlib.Path
) -> float:
  """Returns the area of annotations, in pixels."""
  try:
    return sum(fields.get_number(a, 'area') for a in annotations)
  except ValueError as error:
    raise ValueError(f'{path}: an annotation: {error}') from error


def make_raw_examples(
  folder: pathlib.Path,
  index: coco_annotations.CocoAnnotations,
  entries: Iterable[tuple[dict[str, Any], list[dict[str, Any]]]],
  name: str,
  overlap_id: int | None,
) -> list[raw_examples.RawExample]:
  """Returns examples whose labels are drawn from instances of VOC's classes.

  Args:
    folder: holds the images.
    index: content of the JSON file.
    entries: (image entry, annotations), from `select_voc_annotations`.
    name: name of the data set, whose info maps VOC's ids to train ids.
    overlap_id: id of pixels that belong to several instances; None to keep the
      id of the last instance.

  Raises:
    ValueError: an image is missing.
  """
  examples = []
  for entry, annotations in entries:
    with errors.catch_and_collect():
      examples.append(
        raw_examples.RawExample(
          coco_annotations.require_image_file(folder, entry, index.path),
          index.path,
          catalog.INFOS[name],
          functools.partial(
            draw_voc_label,
            entry=entry,
            annotations=annotations,
            overlap_id=overlap_id,
          ),
        )
      )
  return examples


def draw_voc_label(
  path: pathlib.Path,
  entry: dict[str, Any],
  annotations: Iterable[dict[str, Any]],
  overlap_id: int | None,
) -> np.ndarray:
  """Draws the instances of an image with VOC's ids over a background of 0.

  Args:
    path: the JSON file, for messages.
    entry: the image's entry; reads `height` and `width`.
    annotations: the image's annotations, all of VOC's classes.
    overlap_id: id of pixels that belong to several instances; None to keep the
      id of the last instance.

  Returns:
    [H, W] uint8 raw ids.

  Raises:
    ValueError: a segmentation is malformed.
  """
  try:
    size = fields.get_size(entry)
    label, claims = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    for category, mask in coco_annotations.rasterize_annotations(
      annotations, size
    ):
      label[mask] = catalog.COCO_TO_VOC[int(category)]
      claims += mask
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  if overlap_id is not None:
    label[claims > 1] = overlap_id
  return label
