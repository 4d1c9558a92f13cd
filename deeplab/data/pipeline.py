"""From prepared data to batches: stateless, sharded, and exact.

The training batch at step N is a function of (seed, N) alone: it holds the
global positions N * B .. N * B + B - 1 of an endless sequence of epochs, each
epoch a permutation drawn for (seed, epoch), each example augmented by a
generator keyed by (seed, position). Hosts take contiguous shares of each
batch, so the union over hosts does not depend on how many there are, and
starting at any step costs nothing.

Prepared data is ArrayRecord, read by random access; TensorFlow is imported
only while data is being prepared, if then.
"""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
import copy
import functools
import itertools
import pathlib
from typing import Any

from absl import logging
import cv2
import numpy as np
import tensorflow_datasets as tfds

from deeplab import cores
from deeplab.data import ahead
from deeplab.data import augment
from deeplab.data import bands
from deeplab.data import catalog
from deeplab.data import info as info_lib
from deeplab.data import preparing
from deeplab.data import records
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

Config = Any
Batch = dict[str, np.ndarray]

# What makes the tfds builder of a split, by `config.data.name`.
BUILDERS: dict[str, Callable[[Any, str], tfds.core.DatasetBuilder]] = {
  'ade20k': ade20k.builder,
  'ade20k32_ignore': ade20k.builder,
  'ade20k32_other': ade20k.builder,
  'cityscapes': cityscapes.builder,
  'coco_panoptic': coco_panoptic.builder,
  'coco_voc21': coco_voc.builder,
  'coco_voc_person': coco_voc.builder,
  'cocoseg21': coco.builder,
  'cocoseg21_ti': coco.builder,
  'folder': folder.builder,
  'isaid': isaid.builder,
  'loveda': loveda.builder,
  'oxford_iiit_pet': oxford_iiit_pet.builder,
  'pascal_context59': pascal_context.builder,
  'pascal_context60': pascal_context.builder,
  'potsdam': isprs.potsdam,
  'shapes': shapes.builder,
  'vaihingen': isprs.vaihingen,
  'voc': voc.builder,
}

# Streams of random numbers under one seed.
_ORDER, _AUGMENT, _CALIBRATE = range(3)


def resolve(config: Config) -> Config:
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
  if data.fallback not in ('', data.name) and not _at_hand(data):
    changes = {
      'name': data.fallback,
      'train_split': 'train',
      'eval_split': 'val',
      'fallback': '',
    }
  elif data.name == 'folder':
    changes = catalog.folder_classes(data)
  if data.root:
    changes['root'] = str(pathlib.Path(data.root).expanduser().absolute())
  changes = {k: v for k, v in changes.items() if data[k] != v}
  if not changes:
    return config
  resolved = copy.deepcopy(config)
  with resolved.unlocked():
    resolved.data.update(changes)
  return resolved


def _at_hand(data: Any) -> bool:
  if data.root:
    return True
  splits = data.train_split, data.eval_split
  try:
    return all(
      BUILDERS[data.name](data, split).data_path.exists() for split in splits
    )
  except (KeyError, ValueError):  # unknown, or it reads a root
    return False


def prepare(config: Config, splits: Iterable[str]) -> None:
  """Prepares splits where they are not yet.

  Raises:
    ValueError: the raw data is missing or bad; the message names the file and
      the remedy, and nothing half made is left behind.
  """
  for split in dict.fromkeys(splits):
    _prepared(config.data, split)


def num_examples(config: Config, split: str) -> int:
  """Returns the number of examples of a split, preparing it if needed."""
  return _prepared(config.data, split).info.splits[records.SPLIT].num_examples


def class_shares(config: Config, info: info_lib.DatasetInfo) -> np.ndarray:
  """Returns each class's share of the labelled training pixels, [K] float64.

  Raises:
    ValueError: no pixel of the split is labelled.
  """
  split = config.data.train_split
  _check_facts(config.data, info)
  metadata = _prepared(config.data, split).info.metadata
  counts = np.array(metadata[records.CLASS_PIXELS], np.int64)
  if not counts.any():
    raise ValueError(
      f'no pixel of the split {split!r} has a label; look at the masks and '
      'config.data.ignore_label'
    )
  return counts / counts.sum()


def class_counts(config: Config, info: info_lib.DatasetInfo) -> np.ndarray:
  """Returns the pixels of each training image by class, [N, K] int64."""
  source = records.source(_prepared(config.data, config.data.train_split))
  counts = np.zeros((len(source), info.num_classes), np.int64)
  for i in range(len(source)):
    label = records.decode_label(source[i]['label'])
    pixels = np.bincount(label.ravel(), minlength=256)
    counts[i] = pixels[: info.num_classes]
  return counts


def train_batches(
  config: Config,
  info: info_lib.DatasetInfo,
  *,
  host_index: int,
  host_count: int,
  start_step: int,
) -> Generator[Batch]:
  """Returns an endless iterator over this host's training batches.

  Close it (`.close()`) to end its threads early. An error in a thread reaches
  the caller at the step that it belongs to.

  Args:
    config: reads `seed`, `batch_size` and `data`.
    info: facts about the data set.
    host_index: which host this is.
    host_count: number of hosts.
    start_step: step of the first batch.

  Returns:
    An iterator over {'image' [b, h, w, C] float32 normalised, 'label'
    [b, h, w] uint8 train ids or IGNORE, 'index' [b] uint32 global position},
    with b = batch_size / host_count.

  Raises:
    ValueError: a batch size that the hosts cannot share, or bad data.
  """
  if config.batch_size % host_count:
    raise ValueError(
      f'config.batch_size={config.batch_size} is not a multiple of the '
      f'{host_count} hosts'
    )
  local = config.batch_size // host_count
  read = _Reader(
    config.data, config.data.train_split, info, cache=config.data.cache
  )
  transform = augment.compose(config.data.augment, config.data.mean)
  normalize = _normalizer(config.data.mean, config.data.std)
  order = functools.lru_cache(maxsize=4)(
    lambda epoch: _rng(config.seed, _ORDER, epoch).permutation(read.count)
  )

  def make(position: int) -> augment.Example:
    epoch, offset = divmod(position, read.count)
    example = read(int(order(epoch)[offset]))
    return transform(example, _rng(config.seed, _AUGMENT, position))

  def batch(step: int) -> Batch:
    first = step * config.batch_size + host_index * local
    examples = [make(position) for position in range(first, first + local)]
    sizes = {example['label'].shape for example in examples}
    if len(sizes) > 1:
      raise ValueError(
        f'examples of sizes {sorted(sizes)} do not make a batch: end '
        'config.data.augment.ops with random_crop or stretch'
      )
    channels = len(config.data.mean)
    image = np.empty((local, *sizes.pop(), channels), np.float32)
    for example, place in zip(examples, image, strict=True):
      normalize(example['image'], place)
    return {
      'image': image,
      'label': np.stack([e['label'] for e in examples]),
      'index': np.arange(first, first + local).astype(np.uint32),
    }

  return _ahead(batch, itertools.count(start_step), config.data)


def eval_examples(
  config: Config,
  info: info_lib.DatasetInfo,
  *,
  host_index: int,
  host_count: int,
) -> Iterator[dict[str, Any]]:
  """Returns an iterator over this host's share of the evaluation split.

  Over all hosts every example comes once; shares differ by at most one.

  Args:
    config: reads `data`.
    info: facts about the data set.
    host_index: which host this is.
    host_count: number of hosts.

  Returns:
    An iterator over {'image' [H, W, C] uint8 or uint16, 'label' [H, W] uint8
    train ids or IGNORE, 'name' str}, at native size.
  """
  read = _Reader(config.data, config.data.eval_split, info)
  indices = range(host_index, read.count, host_count)
  return _ahead(read, iter(indices), config.data)


def calibration_images(
  config: Config, info: info_lib.DatasetInfo, count: int
) -> Iterator[np.ndarray]:
  """Yields `count` training images [H, W, C], or all there are.

  They come at native size, each once, drawn for `config.seed`.
  """
  read = _Reader(config.data, config.data.train_split, info)
  order = _rng(config.seed, _CALIBRATE, 0).permutation(read.count)
  for index in order[:count].tolist():
    yield read(index)['image']


class _Reader:
  """Random access to the decoded examples of one prepared split.

  With `cache` examples are decoded once and stay in memory, as read-only
  arrays.
  """

  def __init__(
    self,
    data: Any,
    split: str,
    info: info_lib.DatasetInfo,
    cache: bool = False,
  ):
    _check_facts(data, info)
    builder = _prepared(data, split)
    pixels, image = bands.of(data), builder.info.features['image']
    if image.shape[-1] != pixels.channels or image.np_dtype != pixels.dtype:
      raise ValueError(
        f'config.data.mean has {pixels.channels} values, of images of '
        f'{pixels.depth} bits, for the {image.shape[-1]} channels of '
        f'{np.dtype(image.np_dtype)} of {data.name}'
      )
    self._source = records.source(builder)
    self._cache: dict[int, augment.Example] | None = {} if cache else None
    self.count = len(self._source)

  def __call__(self, index: int) -> augment.Example:
    if self._cache is not None and index in self._cache:
      return dict(self._cache[index])
    record = self._source[index]
    example = {
      'image': records.decode_pixels(record['image']),
      'label': records.decode_label(record['label']),
      'name': record['name'].decode(),
    }
    if self._cache is not None:
      example['image'].setflags(write=False)
      example['label'].setflags(write=False)
      self._cache[index] = dict(example)
    return example


def _normalizer(
  mean: Any, std: Any
) -> Callable[[np.ndarray, np.ndarray], None]:
  """Returns what writes the normalised pixels of an image to a place."""
  # The 256 grey levels normalised, [256, 1, 3]: looking up is several times
  # faster than the arithmetic, and the same to the last bit.
  levels = np.arange(256).repeat(len(mean)).reshape(256, 1, len(mean))
  levels = augment.normalize(levels, mean, std)

  def normalize(image: np.ndarray, place: np.ndarray) -> None:
    if image.dtype == np.uint8 and image.shape[-1] == 3:
      cv2.LUT(image, levels, place)
    else:
      place[...] = augment.normalize(image, mean, std)

  return normalize


def _check_facts(data: Any, info: info_lib.DatasetInfo) -> None:
  """Raises ValueError if the facts are those of another data set."""
  if info.name != data.name:
    raise ValueError(
      f'facts of {info.name!r} for config.data.name={data.name!r}'
    )


def _prepared(data: Any, split: str) -> tfds.core.DatasetBuilder:
  """Returns the builder of a split whose data stands on disk."""
  catalog.info_for(data)  # an unknown name is an error
  builder = BUILDERS[data.name](data, split)
  if builder.data_path.exists():
    return builder
  logging.info('Preparing %s (%s) once.', builder.info.full_name, split)
  tfds.display_progress_bar(False)  # it knows no total; the builders' does
  place = pathlib.Path(builder.data_path).parent
  with preparing.swept(place), preparing.same_bytes():
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


def _ahead(
  make: Callable[[Any], Any], keys: Iterator[Any], data: Any
) -> Generator[Any]:
  """Returns make(key) for each key in turn, computed ahead by threads."""
  if data.threads < 0 or data.prefetch < 1:
    raise ValueError(
      f'config.data.threads={data.threads} must be at least 0, and '
      f'config.data.prefetch={data.prefetch} at least 1'
    )
  threads = data.threads or cores.usable()
  # Each thread makes one result; with fewer in hand than threads, some idle.
  return ahead.ahead(make, keys, threads, max(data.prefetch, threads))


def _rng(seed: int, stream: int, index: int) -> np.random.Generator:
  """Returns the generator of one (seed, stream, index); order is free."""
  bits = np.random.Philox(key=[seed, index], counter=[0, 0, 0, stream])
  return np.random.Generator(bits)
