"""COCO 2017 with VOC's 21 classes, in torchvision's and in TI's reading.

`config.data.root` holds annotations/instances_{train,val}2017.json and the
images in {train,val}2017, or in images/{train,val}2017; `train` and `val` are
the splits. Without a root the official archives are downloaded: 18 GB for
`train`, 1 GB for `val`.

Instances of VOC's 20 classes are drawn, crowds among them; everything else is
background. A pixel that two instances claim is ignored. An image is trained on
if its instances cover more than 1,000 pixels together. `cocoseg21` evaluates
all images of `val`, as torchvision does; `cocoseg21_ti` those alone that it
would train on, as Texas Instruments does, whose numbers are thus not
comparable.

Lin et al., Microsoft COCO, ECCV 2014; torchvision, references/segmentation;
edgeai-torchvision, references/segmentation.
"""

from collections.abc import Iterable
import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data.builders import image_pairs
from deeplab.data.preparation import downloads
from deeplab.data.preparation import errors
from deeplab.data.preparation import fingerprint
from deeplab.data.preparation import rasterize
from deeplab.data.preparation import raw_examples
from deeplab.data.preparation import records

YEAR = '2017'
URL = 'http://images.cocodataset.org'
SPLITS = ('train', 'val')
# An image has to show more than this of the classes to be trained on, in
# pixels as the file's `area` counts them.
MIN_AREA = 1000
REMEDY = (
  f'fetch train{YEAR}.zip, val{YEAR}.zip and annotations_trainval{YEAR}.zip '
  'from https://cocodataset.org/, unpack them into one FOLDER, and give '
  '--config.data.root=FOLDER'
)


@dataclasses.dataclass(frozen=True)
class CocoAnnotations:
  """What a COCO JSON file holds.

  Attributes:
    path: the file.
    images: the entries of `images`, sorted by id.
    annotations: the annotations of each image id, in the file's order.
    categories: name by category id.
  """

  path: pathlib.Path
  images: tuple[dict[str, Any], ...]
  annotations: dict[int, list[dict[str, Any]]]
  categories: dict[int, str]


@dataclasses.dataclass(eq=False)
class CocoConfig(tfds.core.BuilderConfig):
  """One split of one reading.

  Attributes:
    dataset: its name in the catalog.
    split: 'train' or 'val'.
    paths: the JSON file, and the folder of the images; None if they are to be
      downloaded.
  """

  dataset: str = ''
  split: str = ''
  paths: tuple[pathlib.Path, pathlib.Path] | None = dataclasses.field(
    default=None, repr=False
  )


class CocoSeg21(tfds.core.GeneratorBasedBuilder):
  """COCO 2017 with VOC's 20 classes and a background."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return records.tfds_info(self, __doc__, catalog.INFOS['cocoseg21'].url)

  def _split_generators(self, dl_manager):
    split = self.builder_config.split
    found = self.builder_config.paths or download_split(dl_manager, split)
    return {records.TFDS_SPLIT: self._generate_examples(*found)}

  def _generate_examples(self, annotations, images):
    config = self.builder_config
    index = read_annotations(annotations)
    whole = config.dataset == 'cocoseg21' and config.split == 'val'
    sources = make_raw_examples(
      images,
      index,
      (
        (entry, shown)
        for entry, shown in select_voc_annotations(index)
        if whole or sum(annotation['area'] for annotation in shown) > MIN_AREA
      ),
      config.dataset,
      dataset_info.IGNORE,
    )
    facts = catalog.INFOS[config.dataset]
    return raw_examples.generate_records(self, sources, facts, config.split)


def make_builder(data: Any, split: str) -> CocoSeg21:
  """Returns the builder of one split; reads `name`, `root` and `data_dir`.

  Raises:
    ValueError: an unknown split, or the root does not hold it.
  """
  image_pairs.check_split(data, split, SPLITS)
  found, name = None, f'{data.name}_{split}_download'
  if data.root:
    found = locate_split(data.root, split)
    name = fingerprint.hash_files(split, found, catalog.info_for(data))
  return CocoSeg21(
    data_dir=data.data_dir or None,
    file_format='array_record',
    config=CocoConfig(name=name, dataset=data.name, split=split, paths=found),
  )


def download_split(
  dl_manager: Any, split: str, kind: str = 'instances', remedy: str = REMEDY
) -> tuple[pathlib.Path, pathlib.Path]:
  """Fetches the official archives of a split; otherwise as `locate_split`."""
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
  """Returns a split's JSON file, and the folder of its images.

  Args:
    root: as `config.data.root`.
    split: 'train' or 'val'.
    kind: what the JSON file's name begins with.
    remedy: how to get what is missing.

  Raises:
    ValueError: one of them is missing.
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


def read_annotations(path: pathlib.Path) -> CocoAnnotations:
  """Reads a COCO JSON file.

  Raises:
    ValueError: it is damaged, or of another form.
  """
  try:
    content = json.loads(path.read_text('utf-8'))
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in content['annotations']:
      annotations.setdefault(annotation['image_id'], []).append(annotation)
    return CocoAnnotations(
      path=path,
      images=tuple(sorted(content['images'], key=lambda entry: entry['id'])),
      annotations=annotations,
      categories={c['id']: c['name'] for c in content['categories']},
    )
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: damaged, or no COCO file ({error!r}): it must hold images, '
      'annotations and categories'
    ) from error


def select_voc_annotations(
  index: CocoAnnotations,
) -> Iterable[tuple[dict[str, Any], list[dict[str, Any]]]]:
  """Yields each image and its annotations of VOC's classes."""
  for entry in index.images:
    yield (
      entry,
      [
        annotation
        for annotation in index.annotations.get(entry['id'], ())
        if annotation['category_id'] in catalog.COCO_TO_VOC
      ],
    )


def require_image_file(
  folder: pathlib.Path, entry: dict[str, Any], annotations: pathlib.Path
) -> pathlib.Path:
  """Returns the file of an image.

  Raises:
    ValueError: it is missing.
  """
  path = folder / entry['file_name']
  if not path.is_file():
    raise ValueError(
      f'{path}: no such file, but {annotations} names it; add the image or '
      'remove its entry'
    )
  return path


def make_raw_examples(
  folder: pathlib.Path,
  index: CocoAnnotations,
  entries: Iterable[tuple[dict[str, Any], list[dict[str, Any]]]],
  name: str,
  overlap_id: int | None,
) -> list[raw_examples.RawExample]:
  """Returns images whose instances are drawn with VOC's ids.

  Args:
    folder: the images.
    index: the JSON file.
    entries: some of `select_voc_annotations`.
    name: the data set's name, which says what the ids mean.
    overlap_id: see `draw_voc_label`.

  Raises:
    ValueError: an image is missing.
  """
  found = []
  for entry, shown in entries:
    with errors.catch_and_collect():
      found.append(
        raw_examples.RawExample(
          require_image_file(folder, entry, index.path),
          index.path,
          catalog.INFOS[name],
          functools.partial(
            draw_voc_label,
            entry=entry,
            annotations=shown,
            overlap_id=overlap_id,
          ),
        )
      )
  return found


def rasterize_annotations(
  annotations: Iterable[dict[str, Any]], size: tuple[int, int]
) -> Iterable[tuple[int, np.ndarray]]:
  """Yields each annotation's category id and region, [H, W] bool.

  Raises:
    ValueError: a broken segmentation; the message begins with its id.
  """
  for annotation in annotations:
    try:
      mask = rasterize.segmentation_to_mask(
        annotation.get('segmentation'), size
      )
    except ValueError as error:
      raise ValueError(
        f'annotation {annotation.get("id")} of image '
        f'{annotation.get("image_id")}: {error}; correct or remove it'
      ) from error
    yield annotation['category_id'], mask


def draw_voc_label(
  path: pathlib.Path,
  entry: dict[str, Any],
  annotations: Iterable[dict[str, Any]],
  overlap_id: int | None,
) -> np.ndarray:
  """Draws an image's instances with VOC's ids over a background.

  Args:
    path: the JSON file, for messages.
    entry: the image's entry.
    annotations: its annotations, all of VOC's classes.
    overlap_id: id of the pixels that several instances claim; None for that of
      the last one.

  Returns:
    [H, W] uint8 raw ids.

  Raises:
    ValueError: a broken segmentation.
  """
  size = entry['height'], entry['width']
  label, claims = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
  try:
    for category, mask in rasterize_annotations(annotations, size):
      label[mask] = catalog.COCO_TO_VOC[category]
      claims += mask
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  if overlap_id is not None:
    label[claims > 1] = overlap_id
  return label
