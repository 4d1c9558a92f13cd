"""Splits of the data sets: what prepares one, and what its labels hold.

Prepared data is ArrayRecord, read by random access; TensorFlow is imported
only while data is being prepared, if then, and for crops of large photographs.
"""

from collections.abc import Callable
from collections.abc import Iterable
import copy
import pathlib
from typing import Any

from absl import logging
import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data import decoding
from deeplab.data.builders import ade20k
from deeplab.data.builders import cityscapes
from deeplab.data.builders import coco
from deeplab.data.builders import coco_panoptic
from deeplab.data.builders import coco_voc
from deeplab.data.builders import folder
from deeplab.data.builders import isaid
from deeplab.data.builders import isprs
from deeplab.data.builders import loveda
from deeplab.data.builders import oxford_iiit_pet
from deeplab.data.builders import pascal_context
from deeplab.data.builders import shapes
from deeplab.data.builders import voc
from deeplab.data.preparation import locking
from deeplab.data.preparation import records

Config = Any

# What makes the tfds builder of a split, by `config.data.name`.
BUILDERS: dict[str, Callable[[Any, str], tfds.core.DatasetBuilder]] = {
  'ade20k': ade20k.make_builder,
  'ade20k32_ignore': ade20k.make_builder,
  'ade20k32_other': ade20k.make_builder,
  'cityscapes': cityscapes.make_builder,
  'coco_panoptic': coco_panoptic.make_builder,
  'coco_voc21': coco_voc.make_builder,
  'coco_voc_person': coco_voc.make_builder,
  'cocoseg21': coco.make_builder,
  'cocoseg21_ti': coco.make_builder,
  'folder': folder.make_builder,
  'isaid': isaid.make_builder,
  'loveda': loveda.make_builder,
  'oxford_iiit_pet': oxford_iiit_pet.make_builder,
  'pascal_context59': pascal_context.make_builder,
  'pascal_context60': pascal_context.make_builder,
  'potsdam': isprs.make_potsdam_builder,
  'shapes': shapes.make_builder,
  'vaihingen': isprs.make_vaihingen_builder,
  'voc': voc.make_builder,
}


def resolve_config(config: Config) -> Config:
  """Returns the config with what depends on the data at hand written into it.

  Where the data set is absent (no root is given and nothing was prepared) and
  `config.data.fallback` names another one, that takes its place; a folder's
  classes.txt becomes its class names and colours; the root becomes absolute.
  Whoever reads the result later needs none of it.

  Raises:
    ValueError: a folder described inconsistently.
  """
  data = config.data
  changes = {}
  if data.fallback not in ('', data.name) and not _is_available(data):
    changes = {
      'name': data.fallback,
      'train_split': 'train',
      'eval_split': 'val',
      'fallback': '',
    }
  elif data.name == 'folder':
    changes = catalog.read_folder_classes(data)
  if data.root:
    changes['root'] = str(pathlib.Path(data.root).expanduser().absolute())
  changes = {k: v for k, v in changes.items() if data[k] != v}
  if not changes:
    return config
  resolved = copy.deepcopy(config)
  with resolved.unlocked():
    resolved.data.update(changes)
  return resolved


def _is_available(data: Any) -> bool:
  if data.root:
    return True
  splits = data.train_split, data.eval_split
  try:
    return all(
      BUILDERS[data.name](data, split).data_path.exists() for split in splits
    )
  except (KeyError, ValueError):  # unknown, or it reads a root
    return False


def prepare_splits(config: Config, splits: Iterable[str]) -> None:
  """Prepares splits where they are not yet.

  Raises:
    ValueError: the raw data is missing or bad; the message names the file and
      the remedy, and nothing half made is left behind.
  """
  for split in dict.fromkeys(splits):
    prepare_builder(config.data, split)


def num_examples(config: Config, split: str) -> int:
  """Returns the number of examples of a split, preparing it if needed."""
  return (
    prepare_builder(config.data, split)
    .info.splits[records.TFDS_SPLIT]
    .num_examples
  )


def class_frequencies(
  config: Config, info: dataset_info.DatasetInfo
) -> np.ndarray:
  """Returns each class's share of the labelled training pixels, [K] float64.

  Raises:
    ValueError: no pixel of the split is labelled.
  """
  split = config.data.train_split
  check_info(config.data, info)
  metadata = prepare_builder(config.data, split).info.metadata
  counts = np.array(metadata[records.CLASS_PIXELS], np.int64)
  if not counts.any():
    raise ValueError(
      f'no pixel of the split {split!r} has a label; look at the masks and '
      'config.data.ignore_label'
    )
  return counts / counts.sum()


def count_class_pixels(
  config: Config, info: dataset_info.DatasetInfo
) -> np.ndarray:
  """Returns the pixels of each training image by class, [N, K] int64."""
  source = records.open_data_source(
    prepare_builder(config.data, config.data.train_split)
  )
  counts = np.zeros((len(source), info.num_classes), np.int64)
  for i in range(len(source)):
    label = decoding.decode_label(source[i]['label'])
    pixels = np.bincount(label.ravel(), minlength=256)
    counts[i] = pixels[: info.num_classes]
  return counts


def check_info(data: Any, info: dataset_info.DatasetInfo) -> None:
  """Raises ValueError if the facts are those of another data set."""
  if info.name != data.name:
    raise ValueError(
      f'facts of {info.name!r} for config.data.name={data.name!r}'
    )


def prepare_builder(data: Any, split: str) -> tfds.core.DatasetBuilder:
  """Returns the builder of a split whose data stands on disk."""
  catalog.info_for(data)  # an unknown name is an error
  builder = BUILDERS[data.name](data, split)
  if builder.data_path.exists():
    return builder
  logging.info('Preparing %s (%s) once.', builder.info.full_name, split)
  tfds.display_progress_bar(False)  # it knows no total; the builders' does
  place = pathlib.Path(builder.data_path).parent
  with (
    locking.lock_and_clean(place),
    locking.deterministic_serialization(),
    locking.suppress_stdout(),
  ):
    try:
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    except OSError:
      # Another process finished the same work first, and the last step of ours,
      # renaming a folder onto its own, was refused.
      if not builder.data_path.exists():
        raise
  logging.info('Prepared %s.', builder.data_path)
  return BUILDERS[data.name](data, split)
