"""Cutting aerial images into patches of one size."""

import dataclasses
import itertools
import pathlib

import cv2

from deeplab.data import dataset_info
from deeplab.data.preparation import raw_files
from deeplab.data.preparation import records

# Share of a mask's pixels that may have a colour of no class. They are ignored:
# nobody can mend published masks, and other converters do not refuse them.
_MAX_UNKNOWN_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class PatchGrid:
  """Where patches lie, and what they are called.

  Attributes:
    size: pixels of a patch, both sides.
    stride: pixels from one patch to the next; `size` without an overlap.
    name_format: their names, of `stem`, `left`, `top`, `right` and `bottom`.
  """

  size: int
  stride: int
  name_format: str


def patch_starts(length: int, grid: PatchGrid) -> list[int]:
  """Returns where the patches along a side of `length` pixels begin.

  The last one ends at the border, so it shares more with its neighbour; a side
  shorter than a patch has one, which begins at 0.
  """
  last = max(length - grid.size, 0)
  return [*range(0, last, grid.stride), last]


def read_patches(
  image_path: pathlib.Path,
  mask_path: pathlib.Path,
  stem: str,
  info: dataset_info.DatasetInfo,
  grid: PatchGrid,
) -> list[records.Record]:
  """Reads an image and its mask of colours, and cuts both into patches.

  An image smaller than a patch is padded at the bottom and the right: black,
  with IGNORE as its label. A mask of class ids is that of a patch which a
  converter cut before, and is left whole.

  Args:
    image_path: the image.
    mask_path: its annotation.
    stem: the image's part of the patches' names.
    info: facts about the data set.
    grid: where patches lie.

  Raises:
    ValueError: as `records.read_record`.
  """
  mask = raw_files.read_mask(mask_path)
  if mask.ndim == 2:
    name = image_path.stem
    return [
      records.read_record(image_path, mask_path, name, info, lambda _: mask)
    ]
  image = raw_files.read_pixels(image_path)
  records.check_sizes(image_path, image.shape[:2], mask_path, mask.shape[:2])
  try:
    label = raw_files.colors_to_train_ids(mask, info, _MAX_UNKNOWN_SHARE)
  except ValueError as error:
    raise ValueError(f'{mask_path}: {error}') from error
  height, width = label.shape
  border = 0, max(grid.size - height, 0), 0, max(grid.size - width, 0)
  if any(border):
    fill = cv2.BORDER_CONSTANT
    image = cv2.copyMakeBorder(image, *border, fill, value=(0, 0, 0))
    label = cv2.copyMakeBorder(label, *border, fill, value=dataset_info.IGNORE)
  patches = []
  for top, left in itertools.product(
    patch_starts(height, grid), patch_starts(width, grid)
  ):
    bottom, right = top + grid.size, left + grid.size
    patches.append(
      {
        'image': raw_files.encode_png(image[top:bottom, left:right]),
        'label': raw_files.encode_png(label[top:bottom, left:right]),
        'name': grid.name_format.format(
          stem=stem, left=left, top=top, right=right, bottom=bottom
        ),
      }
    )
  return patches
