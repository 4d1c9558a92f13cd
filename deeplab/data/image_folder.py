"""Reads images that belong to no data set: single files and plain folders."""

from collections.abc import Sequence
import os
import pathlib

import numpy as np

from deeplab.data import image_files
from deeplab.data import image_format
from deeplab.data.formats import named_files
from deeplab.data.preparation import raw_files


def is_image(path: pathlib.Path) -> bool:
  """Returns True for a file with the suffix of an image or array."""
  return (
    path.suffix.lower() in image_format.IMAGE_AND_ARRAY_SUFFIXES
    and not path.name.startswith('.')
    and path.is_file()
  )


def list_images(folder: str | os.PathLike, flag: str) -> list[pathlib.Path]:
  """Lists the images of a folder and its subfolders, sorted by path.

  Symbolic links are followed.

  Args:
    folder: the folder.
    flag: the flag that names it, for messages.

  Raises:
    ValueError: there is no such folder, or it holds no image.
  """
  root = pathlib.Path(folder)
  if not root.is_dir():
    raise ValueError(f'{flag}={folder}: there is no such folder')
  paths = [path for path in named_files.walk(root) if is_image(path)]
  if not paths:
    suffixes = ', '.join(image_format.IMAGE_AND_ARRAY_SUFFIXES)
    raise ValueError(f'{flag}={folder}: no image in this folder ({suffixes})')
  return paths


def spread_evenly(
  paths: Sequence[pathlib.Path], count: int
) -> list[pathlib.Path]:
  """Returns `count` of the paths at equal distances, or all if they are fewer.

  Neighbors in a folder are often frames of one film.
  """
  if len(paths) <= count:
    return list(paths)
  return [paths[i * len(paths) // count] for i in range(count)]


def read_image(
  path: str | os.PathLike, image_spec: image_format.ImageSpec
) -> np.ndarray:
  """Reads an image file for a model.

  EXIF orientation is applied, as in training. For models of 8-bit RGB, gray,
  palette and transparent images are converted; other images keep their
  channels.

  Args:
    path: the file.
    image_spec: channels and depth that the model takes.

  Returns:
    uint8 or uint16 [H, W, C].

  Raises:
    ValueError: the file is absent, damaged, too large, not an image, or has
      another depth or number of channels.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'there is no image {path}')
  return raw_files.read_pixels(path, image_spec)


def read_size(path: str | os.PathLike) -> tuple[int, int] | None:
  """Reads (H, W) of an image from its header, as `read_image` turns it.

  Args:
    path: the file.

  Returns:
    The size; None if the header does not tell. Nothing is wrong then: the file
    is judged when its pixels are read.
  """
  path = pathlib.Path(path)
  try:
    if path.suffix.lower() == '.npy':
      height, width = np.load(path, 'r', allow_pickle=False).shape[:2]
      return height, width
    with image_files.open_image(path) as image:
      size = image.height, image.width
      return size[::-1] if image_files.get_orientation(image) > 4 else size
  except (ValueError, OSError, EOFError, AttributeError):
    return None
