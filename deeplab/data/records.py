"""What the builders share: reading raw files, and the prepared record.

A prepared example holds the image as an encoded file (or, if it is no RGB image
of 8 bits, as an array), the label as a PNG that is encoded here from decoded
train ids, and a name. Label files never go into
a record as they are: most of them are palette PNGs, and a decoder that turns
the palette's colours to grey reads VOC's ids 0, 20, 255 as 0, 52, 220.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import hashlib
import io
import os
import pathlib
import re
import stat
from typing import Any

from absl import logging
import cv2
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds
import tqdm

from deeplab.data import ahead
from deeplab.data import bands
from deeplab.data import faults
from deeplab.data import info as info_lib

# The tfds name of the one split that a builder prepares. The configs' own names
# of splits stand in the builder's config: tfds refuses some, such as 'all'.
SPLIT = 'examples'

# In the metadata of prepared data: the number of pixels of each train id, and
# of those without one.
CLASS_PIXELS, IGNORED_PIXELS = 'class_pixels', 'ignored_pixels'

# Each holds a raw file in memory; a large aerial image takes a GiB.
_THREADS = min(8, os.cpu_count() or 1)

Record = dict[str, Any]

# Modes of images with 8 bits a channel, which PIL turns to RGB faithfully.
_IMAGE_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')


def features(pixels: bands.Pixels = bands.RGB) -> tfds.features.FeaturesDict:
  """Returns the features of every prepared data set in here."""
  if pixels == bands.RGB:
    image = tfds.features.Image(shape=(None, None, 3))
  else:
    image = tfds.features.Tensor(
      shape=(None, None, pixels.channels), dtype=pixels.dtype, encoding='zlib'
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


def builder_info(
  builder: tfds.core.DatasetBuilder,
  description: str,
  homepage: str = '',
  pixels: bands.Pixels = bands.RGB,
) -> tfds.core.DatasetInfo:
  """Returns what tfds asks of every builder in here."""
  return tfds.core.DatasetInfo(
    builder=builder,
    description=description,
    homepage=homepage or None,
    features=features(pixels),
    metadata=tfds.core.MetadataDict(),
    disable_shuffling=True,
  )


def generate(
  builder: tfds.core.DatasetBuilder,
  read: Callable[[Any], Sequence[Record]],
  sources: Sequence[Any],
  facts: info_lib.DatasetInfo,
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
    facts: facts about the data set.
    split: name of the split.

  Raises:
    ValueError: of a source that cannot be read; see `faults`.
  """

  def counted(source: Any) -> list[tuple[Record, np.ndarray]] | ValueError:
    try:
      return [(record, _pixels(record)) for record in read(source)]
    except ValueError as error:
      return error

  count, pixels = 0, np.zeros(256, np.int64)
  results = ahead.ahead(counted, sources, _THREADS, 2 * _THREADS)
  bar = tqdm.tqdm(
    results,
    desc=f'Preparing {facts.name} {split}',
    total=len(sources),
    unit=' images',
    disable=None,
  )
  with contextlib.closing(results):
    for result in bar:
      if isinstance(result, ValueError):
        faults.report(result)
        continue
      for record, more in result:
        yield count, record
        count += 1
        pixels += more
  faults.settle()
  published = facts.splits.get(split, count)
  if count != published:
    logging.warning(
      '%s %s: %d examples here, %d as published.',
      *(facts.name, split, count, published),
    )
  builder.info.metadata[CLASS_PIXELS] = pixels[: facts.num_classes].tolist()
  builder.info.metadata[IGNORED_PIXELS] = int(pixels[info_lib.IGNORE])


def _pixels(record: Record) -> np.ndarray:
  """Returns the number of pixels of each value in a label, [256] int64."""
  with Image.open(io.BytesIO(record['label'])) as label:
    return np.bincount(np.asarray(label).ravel(), minlength=256)


def encode_png(pixels: np.ndarray) -> bytes:
  """Encodes [H, W] ids or an [H, W, 3] RGB image, uint8, without loss."""
  if pixels.ndim == 3:
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
  # What OpenCV writes if it is not told is larger, and takes half as long
  # again to decode, which every epoch does.
  options = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 6),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
  )
  _, data = cv2.imencode('.png', pixels, options)
  return data.tobytes()


def source(builder: tfds.core.DatasetBuilder) -> Sequence[Any]:
  """Returns a prepared split's records, still encoded but for arrays."""
  skip = tfds.decode.SkipDecoding()
  encoded = ['label']
  if isinstance(builder.info.features['image'], tfds.features.Image):
    encoded.append('image')
  return builder.as_data_source(SPLIT, decoders=dict.fromkeys(encoded, skip))


def decode_pixels(data: bytes | np.ndarray) -> np.ndarray:
  """Decodes a record's image, [H, W, C], as it is stored.

  tfds decodes RGB images to the same pixels, in two passes more.

  Raises:
    ValueError: the prepared data is damaged.
  """
  if isinstance(data, np.ndarray):
    return data
  return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_label(data: bytes) -> np.ndarray:
  """Decodes a record's label, uint8 [H, W] train ids or IGNORE.

  Raises:
    ValueError: the prepared data is damaged.
  """
  return _decode(data, cv2.IMREAD_GRAYSCALE)


def _decode(data: bytes, flags: int) -> np.ndarray:
  pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  if pixels is None:
    raise ValueError(
      'a prepared example does not decode: remove its folder below '
      'config.data.data_dir, to have it prepared again'
    )
  return pixels


def decode_image(path: pathlib.Path) -> tuple[bytes, Image.Image]:
  """Reads an image file and decodes it to its end.

  Returns:
    The file's bytes, and the decoded image, of a mode that turns to RGB.

  Raises:
    ValueError: the file is damaged, or has more than 8 bits a channel.
  """
  data = path.read_bytes()
  image: Any
  try:
    image = Image.open(io.BytesIO(data))
    image.load()
  except Image.DecompressionBombError as error:
    raise bands.too_large(path) from error
  except (OSError, SyntaxError, ValueError) as error:
    raise ValueError(
      f'{path}: damaged or no image ({error}); replace the file, or remove it '
      'together with its mask'
    ) from error
  # PIL drops the lower bytes of what has 16 bits, without a word.
  depths = image.tag_v2.get(258, (8,)) if image.format == 'TIFF' else (8,)
  deep = max(depths) > 8 or (image.format == 'PNG' and data[24] > 8)
  if deep or image.mode not in _IMAGE_MODES:
    raise ValueError(
      f'{path}: image of mode {image.mode}{" of 16 bits" if deep else ""}; '
      'convert it to 8 bits a channel, or set config.data.depth=16, and '
      'config.data.mean and std in its units'
    )
  return data, image


def read_image(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
  """Reads an image file, checking that it decodes to its end.

  JPEG and PNG files that are RGB of 8 bits keep their bytes. Everything else
  is turned to RGB and encoded as PNG: grey images repeat their channel,
  transparency is dropped. An orientation tag is not applied, so an image stays
  as its mask was drawn.

  Returns:
    An encoded file, and the image's (H, W).

  Raises:
    ValueError: as `decode_image`.
  """
  data, image = decode_image(path)
  keep = image.mode == 'RGB' and 'transparency' not in image.info
  # Bit depth and colour type stand at these places of a PNG file.
  keep &= image.format == 'JPEG' or (
    image.format == 'PNG' and data[24:26] == b'\x08\x02'
  )
  if not keep:
    data = encode_png(np.asarray(image.convert('RGB')))
  return data, (image.height, image.width)


def read_mask(path: pathlib.Path) -> np.ndarray:
  """Reads an annotation file as it is stored.

  Returns:
    [H, W] ids of an index, palette (the index, not its colour), grey or
    16-bit image, or [H, W, 3] uint8 colours of an RGB one.

  Raises:
    ValueError: the file is damaged, a JPEG, or of another kind.
  """
  try:
    with Image.open(path) as image:
      mode, kind = image.mode, image.format
      mask = np.asarray(image)
  except Image.DecompressionBombError as error:
    raise bands.too_large(path) from error
  except (OSError, SyntaxError, ValueError) as error:
    raise ValueError(
      f'{path}: damaged or no image ({error}); replace the mask, or remove it '
      'together with its image'
    ) from error
  if kind == 'JPEG':
    raise ValueError(
      f'{path}: a JPEG mask, whose ids the compression has changed; save masks '
      'as PNG from where they were drawn'
    )
  if mode in ('LA', 'RGBA'):
    mask = mask[..., 0] if mode == 'LA' else mask[..., :3]
  elif mode not in ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'RGB'):
    raise ValueError(
      f'{path}: mask of mode {mode}; save class ids in one channel, or RGB '
      'colours'
    )
  return mask.astype(np.uint8) if mask.dtype == np.bool_ else mask


def read_pixels(path: pathlib.Path) -> np.ndarray:
  """Reads an image file into [H, W, 3] RGB, uint8.

  Raises:
    ValueError: as `decode_image`.
  """
  return np.asarray(decode_image(path)[1].convert('RGB'))


def color_ids(
  mask: np.ndarray, info: info_lib.DatasetInfo, stray: float = 0.0
) -> np.ndarray:
  """Turns a mask of the palette's colours into train ids.

  Args:
    mask: [H, W, 3] uint8.
    info: the data set.
    stray: share of the pixels that may have other colours; they become
      IGNORE.

  Returns:
    [H, W] uint8.

  Raises:
    ValueError: more pixels than that have a colour that is not in the palette.
  """
  ids = np.full(mask.shape[:2], info_lib.IGNORE, np.uint8)
  pixels = _color_codes(mask)
  codes = _color_codes(np.array([info.palette], np.uint8))[0].tolist()
  ignored = []
  if info.ignore_color:
    ignored = _color_codes(np.array([[info.ignore_color]], np.uint8))[0]
    ignored = ignored.tolist()
  if len({*codes, *ignored}) < len(codes) + len(ignored):
    raise ValueError('two entries of the colour map are the same colour')
  for i, code in enumerate(codes):
    ids[pixels == code] = i
  wrong = ids == info_lib.IGNORE
  for code in ignored:
    wrong &= pixels != code
  count = np.count_nonzero(wrong)
  if count > stray * wrong.size:
    y, x = np.unravel_index(wrong.argmax(), wrong.shape)
    raise ValueError(
      f'colour {tuple(mask[y, x].tolist())} at row {y}, column {x} (and '
      f'{count - 1} more pixels) is not in the colour map of '
      f'{len(codes) + len(ignored)} colours: set config.data.color_map or '
      'correct the mask'
    )
  return ids


def _color_codes(colors: np.ndarray) -> np.ndarray:
  """Returns one number a colour: [..., 3] uint8 to [...] uint32."""
  codes = colors[..., 0].astype(np.uint32)
  for channel in (1, 2):
    codes = codes << 8 | colors[..., channel]
  return codes


def example(
  image_path: pathlib.Path,
  mask_path: pathlib.Path,
  name: str,
  info: info_lib.DatasetInfo,
  read: Callable[[pathlib.Path], np.ndarray] = read_mask,
  pixels: bands.Pixels = bands.RGB,
) -> Record:
  """Reads one pair of files into a record.

  Args:
    image_path: the image.
    mask_path: its annotation.
    name: the example's name.
    info: facts about the data set.
    read: reads annotation files that are no images.
    pixels: channels and depth of the image.

  Raises:
    ValueError: a file is damaged, sizes differ, or a label value or colour is
      not the data set's; the message begins with the file.
  """
  image: bytes | np.ndarray
  if pixels == bands.RGB:
    image, size = read_image(image_path)
  else:
    image = bands.read(image_path, pixels)
    size = image.shape[:2]
  mask = read(mask_path)
  check_sizes(image_path, size, mask_path, mask.shape[:2])
  try:
    if mask.ndim == 3:
      label = color_ids(mask, info)
    else:
      label = info_lib.train_ids(mask, info)
  except ValueError as error:
    raise ValueError(f'{mask_path}: {error}') from error
  return {'image': image, 'label': encode_png(label), 'name': name}


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


def fingerprint(split: str, paths: Iterable[pathlib.Path], facts: Any) -> str:
  """Returns the split and 12 hex digits that change with any file or fact.

  Args:
    split: name of the split.
    paths: files, and folders for the files that lie in them; names, sizes and
      modification times count.
    facts: how the files are read; what differs must print differently.
  """
  digest = hashlib.sha256(repr((split, facts)).encode())
  for path in paths:
    for name, state in _files(path):
      digest.update(f'{name}|{state.st_size}|{state.st_mtime_ns}\n'.encode())
  return re.sub(r'\W', '_', split) + '_' + digest.hexdigest()[:12]


def _files(path: pathlib.Path) -> Iterator[tuple[str, os.stat_result]]:
  """Yields the name and the state of a file, or of each file of a folder."""
  state = os.stat(path)
  if not stat.S_ISDIR(state.st_mode):
    yield str(path), state
    return
  with os.scandir(path) as entries:
    for entry in sorted(entries, key=lambda entry: entry.name):
      if entry.is_file():
        yield entry.path, entry.stat()
