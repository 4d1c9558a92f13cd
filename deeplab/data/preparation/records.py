"""The record of a prepared example, which all builders write.

A record holds the image as an encoded file (or as an array, unless it is RGB of
8 bits), the label as a PNG of train ids, and the example's name. Label files
are always decoded, mapped to train ids and encoded again: the bytes of a
palette PNG would be read as colors by some decoders.
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
from deeplab.data import image_files
from deeplab.data import image_format
from deeplab.data import prefetch
from deeplab.data.preparation import errors
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_files

# Name that tfds gets for the one split of each builder. The split's own name is
# in the builder's config, because tfds refuses some names, such as 'all'.
TFDS_SPLIT = 'examples'

# Keys in the metadata of prepared data: the number of pixels of each train id,
# and the number of ignored pixels.
CLASS_PIXELS, IGNORED_PIXELS = 'class_pixels', 'ignored_pixels'
# A sentence on shapes that were left out, '' without any; older data lacks it.
LEFT_OUT = 'left_out'

# Each thread holds one raw file in memory; a large aerial image takes 1 GiB.
THREADS = min(8, os.cpu_count() or 1)

Record = dict[str, Any]


def tfds_features(
  spec: image_format.ImageSpec = image_format.RGB,
) -> tfds.features.FeaturesDict:
  """Returns the tfds features of a record.

  Args:
    spec: channels and depth of the images; RGB of 8 bits is stored encoded,
      anything else as a compressed array.
  """
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
  """Returns the tfds description of a builder.

  Args:
    builder: the builder that is described.
    description: its docstring.
    homepage: URL of the data set, or ''.
    spec: channels and depth of the images.
  """
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
  items: Sequence[Any],
  info: dataset_info.DatasetInfo,
  split: str,
) -> Iterator[tuple[int, Record]]:
  """Yields (index, record) of a split, in the order of its items.

  Threads read ahead, and on a terminal a bar shows progress, rate and ETA. The
  pixels of each class are counted on the way and put into the metadata of
  `builder`, which tfds writes beside the records.

  Args:
    builder: the tfds builder that is being prepared.
    read: returns the records of one item; called in several threads.
    items: arguments of `read`, one for each call.
    info: classes of the data set.
    split: name of the split.

  Raises:
    ValueError: an item cannot be read. Where errors are collected, the first of
      them is raised at the end.
  """

  def read_and_count(
    item: Any,
  ) -> list[tuple[Record, np.ndarray]] | ValueError:
    try:
      return [(record, _count_label_values(record)) for record in read(item)]
    except ValueError as error:
      return error

  count, pixels = 0, np.zeros(256, np.int64)
  errors.take_left_out()  # of a preparation that was interrupted
  results = prefetch.parallel_map(read_and_count, items, THREADS, 2 * THREADS)
  bar = tqdm.tqdm(
    results,
    desc=f'Preparing {info.name} {split}',
    total=len(items),
    unit=' images',
    disable=None,
  )
  with contextlib.closing(results):
    for result in bar:
      if isinstance(result, ValueError):
        errors.raise_or_collect(result)
        continue
      for record, record_pixels in result:
        yield count, record
        count += 1
        pixels += record_pixels
  errors.raise_collected()
  published = info.splits.get(split, count)
  if count != published:
    logging.warning(
      '%s %s: %d examples found, %d published.',
      *(info.name, split, count, published),
    )
  builder.info.metadata[CLASS_PIXELS] = pixels[: info.num_classes].tolist()
  builder.info.metadata[IGNORED_PIXELS] = int(pixels[dataset_info.IGNORE])
  left_out = errors.take_left_out()
  if left_out:
    builder.info.metadata[LEFT_OUT] = f'{split}: {left_out}'
    errors.note(f'{split}: {left_out}')


def _count_label_values(record: Record) -> np.ndarray:
  """Returns the pixels of each value in a record's label, [256] int64."""
  with Image.open(io.BytesIO(record['label'])) as label:
    return np.bincount(np.asarray(label).ravel(), minlength=256)


def open_data_source(builder: tfds.core.DatasetBuilder) -> Sequence[Any]:
  """Opens a prepared split for random access.

  Images and labels come as encoded bytes, images that are stored as arrays come
  decoded.
  """
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
  read_mask: Callable[[pathlib.Path], np.ndarray] = mask_files.read_mask,
  spec: image_format.ImageSpec = image_format.RGB,
  upright: bool = False,
) -> Record:
  """Reads an image and its annotation into a record.

  Args:
    image_path: the image file.
    mask_path: the annotation file.
    name: name of the example.
    info: maps raw ids or colors to train ids.
    read_mask: reads the annotation file to [H, W] raw ids or [H, W, 3] colors;
      given for annotations that are not image files.
    spec: channels and depth of the image.
    upright: apply the image's EXIF orientation. A mask that was painted on the
      stored pixels, which its size tells, is turned with it.

  Raises:
    ValueError: a file is damaged, image and mask differ in size, or a label
      value or color is not one of the data set; the message begins with the
      file.
  """
  image: bytes | np.ndarray
  if spec == image_format.RGB:
    image, size = raw_files.read_encoded_image(image_path, upright)
  else:
    image = image_files.read_array(image_path, spec)
    size = image.shape[:2]
  mask = read_mask(mask_path)
  if upright:
    mask = turn_like_image(mask, image_path, size)
  check_sizes(image_path, size, mask_path, mask.shape[:2])
  try:
    if mask.ndim == 3:
      label = mask_files.colors_to_train_ids(mask, info)
    else:
      label = dataset_info.raw_to_train_ids(mask, info)
  except ValueError as error:
    raise ValueError(f'{mask_path}: {error}') from error
  return {'image': image, 'label': raw_files.encode_png(label), 'name': name}


def turn_like_image(
  mask: np.ndarray, image_path: pathlib.Path, size: tuple[int, int]
) -> np.ndarray:
  """Turns a mask that was painted on the stored pixels of its image upright.

  Args:
    mask: [H, W] or [H, W, 3].
    image_path: the image file.
    size: (H, W) of the upright image.

  Returns:
    The mask, turned by the EXIF orientation of the image where it has the size
    of the stored pixels and not that of the upright image.
  """
  if mask.shape[:2] == size[::-1] != size:
    orientation = image_files.read_orientation(image_path)
    if mask.shape[:2] == image_files.stored_size(size, orientation):
      return image_files.turn_upright(mask, orientation)
  return mask


def check_sizes(
  image_path: pathlib.Path,
  image_size: tuple[int, int],
  mask_path: pathlib.Path,
  mask_size: tuple[int, int],
) -> None:
  """Raises ValueError if an image and its mask differ in size (H, W)."""
  if mask_size != image_size:
    transposed = mask_size[::-1] == image_size
    stored = image_size
    with contextlib.suppress(ValueError):
      orientation = image_files.read_orientation(image_path)
      stored = image_files.stored_size(image_size, orientation)
    raise ValueError(
      f'{mask_path}: mask of {mask_size[1]}x{mask_size[0]} pixels for an '
      f'image of {image_size[1]}x{image_size[0]} ({image_path}'
      + (f', {stored[1]}x{stored[0]} as stored' if stored != image_size else '')
      + '); both must '
      'have the same size'
      + ('; turn one of them by 90 degrees' if transposed else '')
    )
