"""What the builders share: the prepared record.

A prepared example holds the image as an encoded file (or, if it is no RGB image
of 8 bits, as an array), the label as a PNG that is encoded here from decoded
train ids, and a name. Label files never go into a record as they are;
`raw_files` says why.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import io
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds
import tqdm

from deeplab.data import dataset_info
from deeplab.data import image_format
from deeplab.data import prefetch
from deeplab.data.preparation import errors
from deeplab.data.preparation import raw_files

# The tfds name of the one split that a builder prepares. The configs' own names
# of splits stand in the builder's config: tfds refuses some, such as 'all'.
TFDS_SPLIT = 'examples'

# In the metadata of prepared data: the number of pixels of each train id, and
# of those without one.
CLASS_PIXELS, IGNORED_PIXELS = 'class_pixels', 'ignored_pixels'

# Each holds a raw file in memory; a large aerial image takes a GiB.
THREADS = min(8, os.cpu_count() or 1)

Record = dict[str, Any]


def tfds_features(
  spec: image_format.ImageSpec = image_format.RGB,
) -> tfds.features.FeaturesDict:
  """Returns the features of every prepared data set in here."""
  if spec == image_format.RGB:
    image = tfds.features.Image(shape=(None, None, 3))
  else:
    image = tfds.features.Tensor(
      shape=(None, None, spec.channels), dtype=spec.dtype, encoding='zlib'
    )
  return tfds.features.FeaturesDict(
    {
      'image': image,
      'label': tfds.features.Image(
        shape=(None, None, 1), encoding_format='png'
      ),
      'name': tfds.features.Text(),
    }
  )


def tfds_info(
  builder: tfds.core.DatasetBuilder,
  description: str,
  homepage: str = '',
  spec: image_format.ImageSpec = image_format.RGB,
) -> tfds.core.DatasetInfo:
  """Returns what tfds asks of every builder in here."""
  return tfds.core.DatasetInfo(
    builder=builder,
    description=description,
    homepage=homepage or None,
    features=tfds_features(spec),
    metadata=tfds.core.MetadataDict(),
    disable_shuffling=True,
  )


def generate_records(
  builder: tfds.core.DatasetBuilder,
  read: Callable[[Any], Sequence[Record]],
  sources: Sequence[Any],
  info: dataset_info.DatasetInfo,
  split: str,
) -> Iterator[tuple[int, Record]]:
  """Yields the numbered records of a split, in the order of its sources.

  Threads read ahead, and on a terminal a bar shows progress, rate and ETA. At
  the end the pixels of each class are in the metadata of `builder`, which tfds
  writes beside the records.

  Args:
    builder: what is being prepared.
    read: returns the records of one source; called in several threads.
    sources: whatever `read` takes.
    info: facts about the data set.
    split: name of the split.

  Raises:
    ValueError: of a source that cannot be read; see `faults`.
  """

  def counted(source: Any) -> list[tuple[Record, np.ndarray]] | ValueError:
    try:
      return [(record, _count_label_values(record)) for record in read(source)]
    except ValueError as error:
      return error

  count, pixels = 0, np.zeros(256, np.int64)
  results = prefetch.parallel_map(counted, sources, THREADS, 2 * THREADS)
  bar = tqdm.tqdm(
    results,
    desc=f'Preparing {info.name} {split}',
    total=len(sources),
    unit=' images',
    disable=None,
  )
  with contextlib.closing(results):
    for result in bar:
      if isinstance(result, ValueError):
        errors.raise_or_collect(result)
        continue
      for record, more in result:
        yield count, record
        count += 1
        pixels += more
  errors.raise_collected()
  published = info.splits.get(split, count)
  if count != published:
    logging.warning(
      '%s %s: %d examples here, %d as published.',
      *(info.name, split, count, published),
    )
  builder.info.metadata[CLASS_PIXELS] = pixels[: info.num_classes].tolist()
  builder.info.metadata[IGNORED_PIXELS] = int(pixels[dataset_info.IGNORE])


def _count_label_values(record: Record) -> np.ndarray:
  """Returns the number of pixels of each value in a label, [256] int64."""
  with Image.open(io.BytesIO(record['label'])) as label:
    return np.bincount(np.asarray(label).ravel(), minlength=256)


def open_data_source(builder: tfds.core.DatasetBuilder) -> Sequence[Any]:
  """Returns a prepared split's records, still encoded but for arrays."""
  skip = tfds.decode.SkipDecoding()
  encoded = ['label']
  if isinstance(builder.info.features['image'], tfds.features.Image):
    encoded.append('image')
  return builder.as_data_source(
    TFDS_SPLIT, decoders=dict.fromkeys(encoded, skip)
  )


def read_record(
  image_path: pathlib.Path,
  mask_path: pathlib.Path,
  name: str,
  info: dataset_info.DatasetInfo,
  read_mask: Callable[[pathlib.Path], np.ndarray] = raw_files.read_mask,
  spec: image_format.ImageSpec = image_format.RGB,
) -> Record:
  """Reads one pair of files into a record.

  Args:
    image_path: the image.
    mask_path: its annotation.
    name: the example's name.
    info: facts about the data set.
    read_mask: reads annotation files that are no images.
    spec: channels and depth of the image.

  Raises:
    ValueError: a file is damaged, sizes differ, or a label value or colour is
      not the data set's; the message begins with the file.
  """
  image: bytes | np.ndarray
  if spec == image_format.RGB:
    image, size = raw_files.read_encoded_image(image_path)
  else:
    image = image_format.read_array(image_path, spec)
    size = image.shape[:2]
  mask = read_mask(mask_path)
  check_sizes(image_path, size, mask_path, mask.shape[:2])
  try:
    if mask.ndim == 3:
      label = raw_files.colors_to_train_ids(mask, info)
    else:
      label = dataset_info.raw_to_train_ids(mask, info)
  except ValueError as error:
    raise ValueError(f'{mask_path}: {error}') from error
  return {'image': image, 'label': raw_files.encode_png(label), 'name': name}


def check_sizes(
  image_path: pathlib.Path,
  image_size: tuple[int, ...],
  mask_path: pathlib.Path,
  mask_size: tuple[int, ...],
) -> None:
  """Raises ValueError if an image and its mask differ in (H, W)."""
  if mask_size != image_size:
    turned = mask_size[::-1] == image_size
    raise ValueError(
      f'{mask_path}: mask of {mask_size[1]}x{mask_size[0]} pixels for an '
      f'image of {image_size[1]}x{image_size[0]} ({image_path}); they must '
      'agree'
      + ('; save the image upright, without an EXIF tag' if turned else '')
    )
