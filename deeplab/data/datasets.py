"""The data set of a command: its classes, prepared splits and batches.

Prepared data is ArrayRecord, which is read by random access. TensorFlow is
imported only by some builders, and for crops of large JPEG images.
"""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
import contextlib
import copy
import errno
import pathlib
from typing import Any

from absl import logging
import numpy as np
import tensorflow_datasets as tfds

from deeplab import system
from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data import decoding
from deeplab.data import image_format
from deeplab.data import pipeline
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

# Errors of a folder that cannot be made or written, such as a home of no user.
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

# Functions that return the tfds builder of a split, by `config.data.name`.
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
  """Returns the config with all that depends on files written into its fields.

  A run stores the result, so that its model can be loaded without the data:

  1. If the data set is absent (no root is given and nothing was prepared) and
     `config.data.fallback` names another one, that one replaces it.
  2. A folder's classes.txt becomes its class names and colors.
  3. The root becomes an absolute path.

  Args:
    config: the experiment; only `config.data` is read and changed.

  Raises:
    ValueError: fields of a folder contradict each other.
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
  # A config of an older version lacks fields, whose values were empty.
  changes = {k: v for k, v in changes.items() if data.get(k, type(v)()) != v}
  if not changes:
    return config
  resolved = copy.deepcopy(config)
  with resolved.unlocked():
    resolved.data.update(changes)
  return resolved


def _is_available(data: Any) -> bool:
  """Returns True if a root is given or both splits are prepared."""
  if data.root:
    return True
  splits = data.train_split, data.eval_split
  try:
    return all(
      BUILDERS[data.name](data, split).data_path.exists() for split in splits
    )
  except (KeyError, ValueError):  # an unknown name, or a set that needs a root
    return False


class Dataset:
  """One data set, made once for each command and passed along.

  It reads nothing until it is asked for examples, and holds no open files, so
  that it can be pickled for other processes.

  Attributes:
    config: `config.data`, as `resolve_config` returns it.
    info: names, colors and ids of the classes.
    spec: channels and depth of the images.
  """

  def __init__(self, config: Config):
    """Describes the data set of `config.data`.

    Args:
      config: the section `data` of a config.

    Raises:
      ValueError: the name is unknown, a folder is described inconsistently, or
        the depth is not 8 or 16.
    """
    self.config = config
    self.info: dataset_info.DatasetInfo = catalog.info_for(config)
    self.spec: image_format.ImageSpec = image_format.image_spec(config)

  def prepare(self, *splits: str) -> None:
    """Prepares splits that are not prepared yet.

    Args:
      *splits: their names; by default those for training and evaluation.

    Raises:
      ValueError: raw data is missing or bad; the message names the file and the
        remedy. No partly prepared split is left behind.
    """
    names = splits or (self.config.train_split, self.config.eval_split)
    for split in dict.fromkeys(names):
      prepare_builder(self.config, split)

  def num_examples(self, split: str) -> int:
    """Returns the number of examples of a split, preparing it if needed."""
    builder = prepare_builder(self.config, split)
    return builder.info.splits[records.TFDS_SPLIT].num_examples

  def left_out(self, split: str) -> str:
    """Returns a sentence on shapes that were left out of a split, or ''."""
    builder = prepare_builder(self.config, split)
    return builder.info.metadata.get(records.LEFT_OUT, '')

  def class_frequencies(self) -> np.ndarray:
    """Returns each class's share of the labelled training pixels.

    The pixels were counted when the split was prepared; no image is read.

    Returns:
      float64 [K], in the order of the train ids; the sum is 1.

    Raises:
      ValueError: no pixel of the split is labelled.
    """
    split = self.config.train_split
    metadata = prepare_builder(self.config, split).info.metadata
    counts = np.array(metadata[records.CLASS_PIXELS], np.int64)
    if not counts.any():
      raise ValueError(
        f'no pixel of the split {split!r} has a label; look at the masks and '
        'config.data.ignore_label'
      )
    return counts / counts.sum()

  def count_class_pixels(self) -> np.ndarray:
    """Returns the pixels of each training image by class, int64 [N, K]."""
    builder = prepare_builder(self.config, self.config.train_split)
    source = records.open_data_source(builder)
    counts = np.zeros((len(source), self.info.num_classes), np.int64)
    for i in range(len(source)):
      label = decoding.decode_label(source[i]['label'])
      pixels = np.bincount(label.ravel(), minlength=256)
      counts[i] = pixels[: self.info.num_classes]
    return counts

  def train_batches(
    self,
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    host_index: int = 0,
    host_count: int = 1,
  ) -> Generator[pipeline.Batch]:
    """Returns an endless iterator over this host's training batches.

    The batch of a step depends on `seed`, `batch_size` and the step alone.
    Close the iterator (`.close()`) to end its threads early. An error in a
    thread reaches the caller at the step that it belongs to.

    Args:
      seed: draws the order of the examples and their augmentation.
      batch_size: examples of a batch over all hosts.
      start_step: step of the first batch.
      host_index: index of this host.
      host_count: number of hosts.

    Returns:
      An iterator over {'image' [b, h, w, C] float32 normalized, 'label'
      [b, h, w] uint8 train ids or IGNORE, 'index' [b] uint32 global position},
      with b = batch_size / host_count.

    Raises:
      ValueError: the hosts cannot share the batch evenly, or the data is bad.
    """
    return pipeline.train_batches(
      self.config,
      prepare_builder(self.config, self.config.train_split),
      seed=seed,
      batch_size=batch_size,
      start_step=start_step,
      host_index=host_index,
      host_count=host_count,
    )

  def examples(
    self,
    split: str,
    *,
    host_index: int = 0,
    host_count: int = 1,
    threads: int | None = None,
  ) -> Iterator[pipeline.Example]:
    """Returns an iterator over this host's share of a split, at native size.

    Over all hosts every example comes once; shares differ by at most one.

    Args:
      split: name of the split.
      host_index: index of this host.
      host_count: number of hosts.
      threads: number of threads that read; by default `config.threads`.

    Returns:
      An iterator over {'image' [H, W, C] uint8 or uint16, 'label' [H, W] uint8
      train ids or IGNORE, 'name' str}.
    """
    return pipeline.split_examples(
      self.config,
      prepare_builder(self.config, split),
      host_index=host_index,
      host_count=host_count,
      threads=threads,
    )

  def image_sizes(
    self, split: str, *, host_index: int = 0, host_count: int = 1
  ) -> Iterator[tuple[int, int]]:
    """Returns an iterator over (H, W) of the images of `examples`.

    Args:
      split: name of the split.
      host_index: index of this host.
      host_count: number of hosts.
    """
    return pipeline.image_sizes(
      self.config,
      prepare_builder(self.config, split),
      host_index=host_index,
      host_count=host_count,
    )

  def calibration_images(self, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yields training images at native size, each once.

    Args:
      count: number of images; all of the split where it has fewer.
      seed: draws the choice and its order.

    Yields:
      [H, W, C] uint8 or uint16.
    """
    return pipeline.calibration_images(
      self.config,
      prepare_builder(self.config, self.config.train_split),
      count,
      seed,
    )


def prepare_builder(data: Any, split: str) -> tfds.core.DatasetBuilder:
  """Returns the builder of a split, preparing its data if needed.

  Args:
    data: `config.data`.
    split: name of the split.

  Raises:
    ValueError: an unknown name, or raw data is missing or bad.
    OSError: the disk is full.
  """
  catalog.info_for(data)  # raises for an unknown name
  builder = BUILDERS[data.name](data, split)
  if builder.data_path.exists():
    return builder
  logging.info('Preparing %s (%s) once.', builder.info.full_name, split)
  # tfds' progress bar knows no total; the builders show one that does.
  tfds.display_progress_bar(False)
  folder_path = pathlib.Path(builder.data_path).parent
  with (
    _explain_unwritable_folder(folder_path),
    locking.lock_and_clean(folder_path),
    locking.deterministic_serialization(),
    locking.suppress_stdout(),
  ):
    try:
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    except (OSError, RuntimeError) as error:  # that of ArrayRecord's writer
      if system.full_disk_reason(error):
        raise system.write_error(builder.data_path, error) from error
      # Another process prepared the same split first, so that our last step,
      # renaming the unfinished folder to the finished one, failed.
      if not builder.data_path.exists():
        raise
  logging.info('Prepared %s.', builder.data_path)
  return BUILDERS[data.name](data, split)


@contextlib.contextmanager
def _explain_unwritable_folder(folder: pathlib.Path) -> Iterator[None]:
  """Names the prepared data and its flag where its folder cannot be written."""
  try:
    yield
  except OSError as error:
    place = str(error.filename or '')
    if error.errno not in _UNWRITABLE or not place.startswith(str(folder)):
      raise
    raise OSError(
      f'could not write the prepared data to {folder}: {error.strerror}; give '
      'a folder that can be written by --config.data.data_dir=FOLDER'
    ) from error
