"""Cuts large aerial images into patches of one size."""

import dataclasses
import itertools
import pathlib

import cv2

from deeplab.data import dataset_info
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_files
from deeplab.data.preparation import records

# Share of a mask's pixels that may have a color outside the palette; they are
# ignored. Published masks contain such pixels, and other converters accept
# them.
_MAX_UNKNOWN_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class PatchGrid:
  """Positions and names of patches.

  Attributes:
    size: height and width of a patch, in pixels.
    stride: pixels from one patch to the next; equal to `size`, patches do not
      overlap.
    name_format: format of names, from `stem`, `left`, `top`, `right`, `bottom`.
  """

  size: int
  stride: int
  name_format: str


def patch_starts(length: int, grid: PatchGrid) -> list[int]:
  """Returns the first pixels of the patches along one side of an image.

  The last patch ends at the border, and so overlaps its neighbor by more than
  the others do. A side shorter than a patch has one patch, which starts at 0.

  Args:
    length: pixels of the side.
    grid: size and stride of the patches.
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
  """Reads an image and its RGB mask, and cuts both into patches.

  An image smaller than a patch is padded at the bottom and on the right with
  black, whose label is IGNORE. A mask of class ids belongs to a patch that a
  converter has cut before; it gives one record.

  Args:
    image_path: the image file.
    mask_path: the mask file.
    stem: first part of the names of the patches.
    info: gives the palette of the masks.
    grid: positions and names of the patches.

  Returns:
    One record for each patch, row by row.

  Raises:
    ValueError: a file is damaged, image and mask differ in size, or more than
      1 % of the mask has colors outside the palette.
  """
  mask = mask_files.read_mask(mask_path)
  if mask.ndim == 2:
    name = image_path.stem
    return [
      records.read_record(image_path, mask_path, name, info, lambda _: mask)
    ]
  image = raw_files.read_pixels(image_path)
  records.check_sizes(image_path, image.shape[:2], mask_path, mask.shape[:2])
  try:
    label = mask_files.colors_to_train_ids(mask, info, _MAX_UNKNOWN_SHARE)
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
