"""Reads mask files: class ids as they are stored, or colors of the classes.

Most masks are palette PNGs, and a decoder that converts the palette's colors to
grey would read VOC's ids 0, 20, 255 as 0, 52, 220. `find_train_ids` is the one
rule by which training and the doctor understand the values of the user's masks:

1. RGB masks are read by color. If red, green and blue are equal everywhere and
   are no colors of the classes, they are ids in three equal channels.
2. Where the user gave the classes colors, so are palette masks whose entries
   have these colors, and grey and 1-bit masks whose values are no ids.
3. All other masks hold ids, which `config.data.id_map` may map.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib

import cv2
import numpy as np

from deeplab.data import dataset_info
from deeplab.data import image_files

# What to do about masks whose palette has other colors than the classes.
CONTRADICTION_REMEDY = (
  'correct config.data.color_map or classes.txt, or take the colors out of '
  'them, so that palette entries are read as ids'
)

# Modes of images with one channel of ids.
_ID_MODES = ('1', 'L', 'LA', 'P', 'PA', 'I', 'F', 'I;16', 'I;16B', 'I;16L')


class LossyMaskError(ValueError):
  """A mask is in a format whose compression changes ids."""


@dataclasses.dataclass(frozen=True)
class StoredMask:
  """A mask as its file stores it.

  Attributes:
    values: [H, W] integers (indices of a palette image), or [H, W, 3] uint8
      RGB colors. An alpha channel is dropped.
    palette: uint8 [n, 3] colors of a palette image; None for other images, and
      where the colors are the grey levels of their indices.
    bilevel: True for an image of 1 bit, whose 1 is shown as white.
  """

  values: np.ndarray
  palette: np.ndarray | None = None
  bilevel: bool = False


def read_mask(path: pathlib.Path) -> np.ndarray:
  """Reads a mask without converting its values.

  Returns:
    [H, W] ids of a palette (indices, not colors), grey or 16-bit image, or
    [H, W, 3] uint8 colors of an RGB image. An alpha channel is dropped.

  Raises:
    ValueError: the file is damaged or too large, a JPEG, or of another mode.
  """
  return read_stored_mask(path).values


def read_stored_mask(path: pathlib.Path) -> StoredMask:
  """Reads a mask, with the colors of its palette.

  Args:
    path: an image file, or a NumPy array (.npy) of [H, W] whole numbers or
      [H, W, 3] uint8 colors.

  Raises:
    ValueError: the file is damaged or too large, compressed with loss, or has
      no whole numbers.
  """
  if path.suffix.lower() == '.npy':
    return StoredMask(_check_array(path, image_files.read_npy(path)))
  palette = None
  with image_files.open_image(path) as image:
    mode, kind = image.mode, image.format
    pending = kind != 'TIFF'  # PIL turns TIFF files itself
    orientation = image_files.get_orientation(image) if pending else 1
    image.load()  # a TIFF has another shape before it is turned
    values = np.asarray(image)
    if mode in ('P', 'PA'):
      palette = np.array(image.getpalette('RGB') or (), np.uint8).reshape(-1, 3)
  if kind in ('JPEG', 'MPO'):
    raise LossyMaskError(
      f'{path}: the mask is a JPEG, whose compression changes ids; export it '
      'as PNG from the tool that it was drawn with'
    )
  if kind == 'WEBP' and not image_files.is_lossless_webp(path):
    raise LossyMaskError(
      f'{path}: the mask is a WebP with lossy compression, which changes ids; '
      'export it as PNG from the tool that it was drawn with'
    )
  if mode in ('LA', 'PA'):
    values = values[..., 0]
  elif mode == 'RGBA':
    values = values[..., :3]
  elif mode not in (*_ID_MODES, 'RGB'):
    raise ValueError(
      f'{path}: mask of mode {mode}; save class ids in one channel, or RGB '
      'colors'
    )
  values = image_files.turn_upright(_check_array(path, values), orientation)
  if palette is not None and values.size:
    used = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    if used[-1] >= len(palette) or (palette[used] == used[:, None]).all():
      palette = None
    elif kind == 'GIF' and not np.ptp(palette[used], axis=1).any():
      values, palette = palette[values][..., 0], None  # GIF has no grey images
  return StoredMask(values, palette, mode == '1')


def _check_array(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
  """Returns ids [H, W] as integers, or colors [H, W, 3] uint8."""
  if values.ndim == 3 and values.shape[2] == 1:
    values = values[..., 0]
  if values.ndim != 2 and not (
    values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8
  ):
    raise ValueError(
      f'{path}: mask of shape {list(values.shape)} and type {values.dtype}; '
      'save class ids in one channel, or RGB colors of 8 bits'
    )
  if values.dtype == np.bool_:
    return values.astype(np.uint8)
  if values.dtype.kind == 'f':
    whole = np.isfinite(values) & (abs(values) < 2**31)
    whole &= values == np.round(values)
    if not whole.all():
      row, column = np.unravel_index(np.argmin(whole), whole.shape)
      raise ValueError(
        f'{path}: value {values[row, column]:g} at row {row}, column {column} '
        'is no whole number; save class ids, not probabilities or heights'
      )
    return values.astype(np.int32)
  if values.dtype.kind not in 'iu':
    raise ValueError(f'{path}: mask of {values.dtype}; save class ids')
  return values


def read_train_ids(
  path: pathlib.Path, info: dataset_info.DatasetInfo
) -> np.ndarray:
  """Reads a mask of the user to train ids.

  Args:
    path: the mask file.
    info: ids and colors of the classes.

  Returns:
    [H, W] uint8 train ids or IGNORE.

  Raises:
    ValueError: the file is damaged or of another kind, or a value or a color
      belongs to no class; the message begins with the file.
  """
  mask = read_stored_mask(path)
  try:
    return stored_to_train_ids(mask, info)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def stored_to_train_ids(
  mask: StoredMask, info: dataset_info.DatasetInfo
) -> np.ndarray:
  """Converts a mask of the user to train ids, [H, W] uint8.

  Raises:
    ValueError: a value or a color belongs to no class, or is ambiguous.
  """
  mask = _reduce_grey_colors(mask, info)
  if mask.values.ndim == 3:
    return colors_to_train_ids(mask.values, info)
  found = _find_train_ids(mask, info)
  if not found.by_color:
    return dataset_info.raw_to_train_ids(mask.values, info)
  if None in found.train_ids:
    i = found.train_ids.index(None)
    raise ValueError(
      f'{found.describe_value(i)} is no color of the classes ({found.counts[i]}'
      f' pixels): {CONTRADICTION_REMEDY}'
    )
  return map_values(
    mask.values, found.values, np.array(found.train_ids, np.uint8)
  )


@dataclasses.dataclass(frozen=True)
class MaskValues:
  """The distinct values of a mask and what they mean.

  Attributes:
    mask: the mask, in one channel where its colors are ids.
    values: [n] ids or [n, 3] colors.
    counts: int [n], pixels of each.
    train_ids: of each, or IGNORE; None for a value of no class.
    by_color: the colors of the classes decided.
  """

  mask: StoredMask
  values: np.ndarray
  counts: np.ndarray
  train_ids: list[int | None]
  by_color: bool

  def describe_value(self, i: int) -> str:
    """Returns the i-th value as text; of a palette entry its color, too."""
    value = self.values[i].tolist()
    if isinstance(value, list):
      return str(tuple(value))
    if self.by_color and self.mask.palette is not None:
      return f'palette entry {value} {tuple(self.mask.palette[value].tolist())}'
    return str(value)


def find_train_ids(
  mask: StoredMask, info: dataset_info.DatasetInfo
) -> MaskValues:
  """Finds the distinct values of a mask of the user and their train ids.

  Raises:
    ValueError: two classes have one color, or a grey mask is ambiguous.
  """
  return _find_train_ids(_reduce_grey_colors(mask, info), info)


def _find_train_ids(
  mask: StoredMask, info: dataset_info.DatasetInfo
) -> MaskValues:
  """Does so for a mask whose grey colors were reduced."""
  values, counts = _count_values(mask.values)
  listed = _listed_colors(info)
  if values.ndim == 2:
    train_ids = [listed.get(tuple(color)) for color in values.tolist()]
    return MaskValues(mask, values, counts, train_ids, True)
  colors = _colors_of_values(mask, values.tolist(), info)
  if colors is None:
    ids = dataset_info.train_id_table(info)
    train_ids = [ids.get(v, info.unmapped) for v in values.tolist()]
  else:
    ignored = {info.ignore_label: dataset_info.IGNORE}
    train_ids = [listed.get(colors[v], ignored.get(v)) for v in values.tolist()]
  return MaskValues(mask, values, counts, train_ids, colors is not None)


def _reduce_grey_colors(
  mask: StoredMask, info: dataset_info.DatasetInfo
) -> StoredMask:
  """Returns an RGB mask whose three channels hold the same ids as one channel.

  Args:
    mask: the mask; any other is returned as it is.
    info: the classes. Grey colors of classes remain colors.
  """
  values = mask.values
  if values.ndim == 2 or (values[..., :1] != values[..., 1:]).any():
    return mask
  used = np.unique(values[..., 0]).tolist()
  if {(v, v, v) for v in used} <= _listed_colors(info).keys():
    return mask
  return StoredMask(np.ascontiguousarray(values[..., 0]))


def _listed_colors(
  info: dataset_info.DatasetInfo,
) -> dict[dataset_info.Color, int]:
  """Returns the train id (or IGNORE) of each color of the classes."""
  colors = {color: i for i, color in enumerate(info.palette)}
  count = len(info.palette)
  if info.ignore_color is not None:
    colors[info.ignore_color] = dataset_info.IGNORE
    count += 1
  if len(colors) < count:
    raise ValueError('two entries of the color map are the same color')
  return colors


def _colors_of_values(
  mask: StoredMask, used: Sequence[int], info: dataset_info.DatasetInfo
) -> Mapping[int, dataset_info.Color] | None:
  """Returns the colors that the values of a mask stand for; None for ids.

  Args:
    mask: a mask of one channel.
    used: its distinct values.
    info: ids and colors of the classes.

  Raises:
    ValueError: a grey mask may be read by color or by id, to other classes.
  """
  if not info.has_user_colors:
    return None
  listed = _listed_colors(info)
  if mask.palette is not None:
    colors = {v: tuple(mask.palette[v].tolist()) for v in used}
    if info.id_mapping is not None and not set(colors.values()) <= set(listed):
      return None
    return colors
  if info.id_mapping is not None:
    return None
  if mask.bilevel:
    both = (0, 0, 0), (255, 255, 255)
    return dict(enumerate(both)) if listed.keys() >= {*both} else None
  colors = {v: (v, v, v) for v in used}
  if not set(colors.values()) <= listed.keys():
    return None
  ids = {i: i for i in range(info.num_classes)}
  if info.ignore_label is not None and (info.ignore_label,) * 3 not in listed:
    ids[info.ignore_label] = dataset_info.IGNORE
  if not ids.keys() >= set(used):
    return colors
  all_grey = all(red == green == blue for red, green, blue in info.palette)
  wrong = [v for v in used if ids[v] != listed[colors[v]]]
  if all_grey and wrong:
    raise ValueError(
      f'value {wrong[0]} of a grey mask is both the id of '
      f'{info.class_names[ids[wrong[0]]]} and the color of another class; give '
      'config.data.id_map, or list the classes in the order of their ids'
    )
  return None


def _count_values(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Counts the distinct values of a mask.

  Args:
    raw: [H, W] ids or [H, W, 3] colors.

  Returns:
    ([n] ids or [n, 3] colors, int [n] pixels), in ascending order.
  """
  if raw.dtype == np.uint8 and raw.ndim == 2:
    counts = np.bincount(raw.ravel(), minlength=256)
    values = np.flatnonzero(counts)
    return values, counts[values]
  values, counts = np.unique(_pack_values(raw), return_counts=True)
  values = values.astype(np.int64)
  if raw.ndim == 3:
    values = values[:, None] >> np.array((16, 8, 0)) & 255
  return values, counts


def map_values(
  raw: np.ndarray, values: np.ndarray, table: np.ndarray
) -> np.ndarray:
  """Returns uint8 [H, W]: table[i] where the mask has values[i].

  Args:
    raw: [H, W] ids or [H, W, 3] colors.
    values: its distinct values, in ascending order.
    table: uint8 [n].
  """
  if raw.dtype == np.uint8 and raw.ndim == 2:
    lookup = np.zeros(256, np.uint8)
    lookup[values] = table
    return cv2.LUT(raw, lookup)
  codes = _pack_values(values[None])[0] if values.ndim == 2 else values
  return table[np.searchsorted(codes, _pack_values(raw))]


def _pack_values(raw: np.ndarray) -> np.ndarray:
  """Returns one number per pixel: its id, or its color as 0xRRGGBB.

  They have no more bytes than they need: sorting them takes most of the time.
  """
  if raw.ndim == 2:
    return raw
  red, green, blue = (raw[..., i].astype(np.uint32) for i in range(3))
  return red << 16 | green << 8 | blue


def colors_to_train_ids(
  mask: np.ndarray,
  info: dataset_info.DatasetInfo,
  max_unknown_share: float = 0.0,
) -> np.ndarray:
  """Converts an RGB mask to train ids by the palette of a data set.

  Args:
    mask: [H, W, 3] uint8.
    info: gives palette and ignored color.
    max_unknown_share: share of pixels that may have colors outside the
      palette; they become IGNORE.

  Returns:
    [H, W] uint8 train ids or IGNORE.

  Raises:
    ValueError: a larger share of pixels has colors outside the palette, or two
      entries of the palette are the same color.
  """
  ids = np.full(mask.shape[:2], dataset_info.IGNORE, np.uint8)
  pixels = _pack_values(mask)
  unknown = np.ones(mask.shape[:2], bool)
  listed = _listed_colors(info)
  for (red, green, blue), train_id in listed.items():
    match = pixels == (red << 16 | green << 8 | blue)
    ids[match] = train_id
    unknown[match] = False
  count = np.count_nonzero(unknown)
  if count > max_unknown_share * unknown.size:
    y, x = np.unravel_index(unknown.argmax(), unknown.shape)
    raise ValueError(
      f'color {tuple(mask[y, x].tolist())} at row {y}, column {x} (and '
      f'{count - 1} more pixels) is not in the color map of {len(listed)} '
      'colors: set config.data.color_map or correct the mask'
    )
  return ids
