"""Input pipelines from prepared data to batches: stateless, sharded, exact.

The training batch of step N depends on (seed, N) alone. With batch size B it
holds the global positions N * B .. N * B + B - 1 of an endless sequence of
epochs. Each epoch is a permutation drawn for (seed, epoch), and each example is
augmented with a generator keyed by (seed, position). Hosts take contiguous
parts of each batch, so the global batch does not depend on their number, and
resuming at any step costs nothing.

`datasets.Dataset` is the public interface of this module.
"""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
import functools
import itertools
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from deeplab import system
from deeplab.data import decoding
from deeplab.data import image_format
from deeplab.data import prefetch
from deeplab.data.augmentation import base
from deeplab.data.augmentation import compose
from deeplab.data.augmentation import lazy_image
from deeplab.data.preparation import records

Config = Any
Batch = dict[str, np.ndarray]
Example = base.Example

# Independent streams of random numbers under one seed.
_ORDER, _AUGMENT, _CALIBRATE = range(3)


def train_batches(
  config: Config,
  builder: tfds.core.DatasetBuilder,
  *,
  seed: int,
  batch_size: int,
  start_step: int,
  host_index: int,
  host_count: int,
) -> Generator[Batch]:
  """Returns an endless iterator over this host's training batches.

  Args:
    config: `config.data`.
    builder: the prepared training split.
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
  if batch_size % host_count:
    raise ValueError(
      f'config.batch_size={batch_size} is not a multiple of the '
      f'{host_count} hosts'
    )
  local_size = batch_size // host_count
  reader = _ExampleReader(
    config,
    builder,
    cache=config.cache,
    lazy=image_format.image_spec(config) == image_format.RGB,
  )
  transform = compose.compose_ops(config.augment, config.mean)
  normalize = _make_normalizer(config.mean, config.std)
  order = functools.lru_cache(maxsize=4)(
    lambda epoch: _make_rng(seed, _ORDER, epoch).permutation(reader.count)
  )

  def make_example(position: int) -> base.Example:
    epoch, offset = divmod(position, reader.count)
    example = reader(int(order(epoch)[offset]))
    return transform(example, _make_rng(seed, _AUGMENT, position))

  def make_batch(step: int) -> Batch:
    first = step * batch_size + host_index * local_size
    examples = [make_example(i) for i in range(first, first + local_size)]
    size = compose.require_same_size(x['label'].shape for x in examples)
    channels = len(config.mean)
    image = np.empty((local_size, *size, channels), np.float32)
    for example, target in zip(examples, image, strict=True):
      normalize(example['image'], target)
    return {
      'image': image,
      'label': np.stack([x['label'] for x in examples]),
      'index': np.arange(first, first + local_size).astype(np.uint32),
    }

  return _parallel_map(make_batch, itertools.count(start_step), config)


def split_examples(
  config: Config,
  builder: tfds.core.DatasetBuilder,
  *,
  host_index: int,
  host_count: int,
  threads: int | None = None,
) -> Iterator[Example]:
  """Returns an iterator over this host's share of a split, at native size.

  Over all hosts every example comes once; shares differ by at most one.

  Args:
    config: `config.data`.
    builder: the prepared split.
    host_index: index of this host.
    host_count: number of hosts.
    threads: number of threads that read; by default `config.threads`.

  Returns:
    An iterator over {'image' [H, W, C] uint8 or uint16, 'label' [H, W] uint8
    train ids or IGNORE, 'name' str}.
  """
  reader = _ExampleReader(config, builder)
  indices = range(host_index, reader.count, host_count)
  return _parallel_map(reader, iter(indices), config, threads)


def image_sizes(
  config: Config,
  builder: tfds.core.DatasetBuilder,
  *,
  host_index: int,
  host_count: int,
) -> Iterator[tuple[int, int]]:
  """Returns an iterator over (H, W) of `split_examples`; it decodes nothing."""
  reader = _ExampleReader(config, builder)
  indices = range(host_index, reader.count, host_count)
  return _parallel_map(reader.read_size, iter(indices), config)


def calibration_images(
  config: Config, builder: tfds.core.DatasetBuilder, count: int, seed: int
) -> Iterator[np.ndarray]:
  """Yields `count` images [H, W, C] of a split, or all there are.

  They come at native size, each once, in an order drawn for `seed`.
  """
  reader = _ExampleReader(config, builder)
  order = _make_rng(seed, _CALIBRATE, 0).permutation(reader.count)
  for index in order[:count].tolist():
    yield reader(index)['image']


class _ExampleReader:
  """Random access to the decoded examples of one prepared split."""

  def __init__(
    self,
    config: Config,
    builder: tfds.core.DatasetBuilder,
    cache: bool = False,
    lazy: bool = False,
  ):
    """Opens a split.

    Args:
      config: `config.data`.
      builder: the prepared split.
      cache: keep decoded examples in memory, as read-only arrays.
      lazy: return images as `lazy_image.LazyImage`, which is decoded when its
        pixels are needed.

    Raises:
      ValueError: `config.mean` or `config.depth` do not fit the images.
    """
    spec = image_format.image_spec(config)
    image = builder.info.features['image']
    if image.shape[-1] != spec.channels or image.np_dtype != spec.dtype:
      raise ValueError(
        f'config.data.mean and config.data.depth describe {spec.channels} '
        f'channels of {spec.depth} bits, but images of {config.name} have '
        f'{image.shape[-1]} channels of {np.dtype(image.np_dtype)}'
      )
    self._source = records.open_data_source(builder)
    self._cache: dict[int, base.Example] | None = {} if cache else None
    self._lazy = lazy
    self.count = len(self._source)

  def read_size(self, index: int) -> tuple[int, int]:
    """Returns (H, W) of an example, from the header of its label."""
    return decoding.read_label_size(self._source[index]['label'])

  def __call__(self, index: int) -> base.Example:
    if self._cache is not None and index in self._cache:
      example = dict(self._cache[index])
    else:
      record = self._source[index]
      example = {
        'image': record['image'],
        'label': decoding.decode_label(record['label']),
        'name': record['name'].decode(),
      }
      if self._cache is not None or not self._lazy:
        example['image'] = decoding.decode_image(example['image'])
      if self._cache is not None:
        example['image'].setflags(write=False)
        example['label'].setflags(write=False)
        self._cache[index] = dict(example)
    if self._lazy:
      example['image'] = lazy_image.wrap_image(
        example['image'], example['label'].shape
      )
    return example


def _make_normalizer(
  mean: Any, std: Any
) -> Callable[[np.ndarray, np.ndarray], None]:
  """Returns a function that writes a normalized image to an array.

  Args:
    mean: one value for each channel, in pixel units.
    std: one value for each channel, in pixel units.

  Returns:
    normalize(image [H, W, C] uint8 or uint16, target [H, W, C] float32).
  """
  # A lookup table of the 256 normalized values, [256, 1, 3], is several times
  # faster than the arithmetic and bitwise equal to it.
  levels = np.arange(256).repeat(len(mean)).reshape(256, 1, len(mean))
  levels = image_format.normalize_image(levels, mean, std)

  def normalize(image: np.ndarray, target: np.ndarray) -> None:
    if image.dtype == np.uint8 and image.shape[-1] == 3:
      cv2.LUT(image, levels, target)
    else:
      target[...] = image_format.normalize_image(image, mean, std)

  return normalize


def _parallel_map(
  make: Callable[[Any], Any],
  keys: Iterator[Any],
  config: Config,
  threads: int | None = None,
) -> Generator[Any]:
  """Yields make(key) for each key in order; threads of `config` work ahead."""
  threads = config.threads if threads is None else threads
  if threads < 0 or config.prefetch < 1:
    raise ValueError(
      f'config.data.threads={threads} must be at least 0, and '
      f'config.data.prefetch={config.prefetch} at least 1'
    )
  threads = threads or system.cpu_count()
  # With fewer results in progress than threads, some threads would idle.
  return prefetch.parallel_map(
    make, keys, threads, max(config.prefetch, threads)
  )


def _make_rng(seed: int, stream: int, index: int) -> np.random.Generator:
  """Returns the random generator of (seed, stream, index)."""
  bits = np.random.Philox(key=[seed, index], counter=[0, 0, 0, stream])
  return np.random.Generator(bits)
