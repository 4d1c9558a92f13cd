"""CVAT's own XML, "CVAT for images 1.1": many images in one file.

The file of a split is ROOT/SPLIT.xml or ROOT/SPLIT/annotations.xml. Images are
looked for beside the file, in ROOT/SPLIT, ROOT/images and ROOT, and may lie in
an `images` of ROOT/SPLIT.

Polygons, boxes, ellipses and masks are drawn, in their z order; what encloses
nothing, such as a polyline, is an error. Tags are left.
"""

import functools
import pathlib
from xml.etree import ElementTree

import numpy as np

from deeplab.data.formats import classes as classes_lib
from deeplab.data.preparation import rasterize
from deeplab.data.preparation import raw_examples


def find_examples(
  base: pathlib.Path, split: str, classes: classes_lib.ClassTable
) -> list[raw_examples.RawExample] | None:
  """Returns the examples of a split, or None without such a file.

  Raises:
    ValueError: a damaged file, or an image that is missing.
  """
  files = base / f'{split}.xml', base / split / 'annotations.xml'
  path = next((path for path in files if path.is_file()), None)
  if path is None:
    return None
  try:
    images = ElementTree.parse(path).getroot().findall('image')
    named = [(image.attrib['name'], image) for image in images]
  except (ElementTree.ParseError, KeyError) as error:
    raise ValueError(
      f'{path}: damaged, or no file of "CVAT for images" ({error!r})'
    ) from error
  if not named:
    raise ValueError(
      f'{path}: names no image; export the task as "CVAT for images 1.1"'
    )
  folders = (
    *(path.parent, base / split, base / split / 'images'),
    *(base / 'images', base),
  )
  return classes_lib.make_raw_examples(
    path,
    folders,
    classes,
    (
      (name, functools.partial(_draw_label, image=image, classes=classes))
      for name, image in named
    ),
  )


def _draw_label(
  path: pathlib.Path,
  image: ElementTree.Element,
  classes: classes_lib.ClassTable,
) -> np.ndarray:
  """Draws one image's shapes."""
  name = image.get('name')
  try:
    size = int(image.attrib['height']), int(image.attrib['width'])
    shapes = [shape for shape in image if shape.tag != 'tag']
    shapes.sort(key=lambda shape: int(shape.get('z_order', 0)))
    return classes.draw_shapes(
      size,
      (
        (
          f'{shape.tag} ({shape.get("label")})',
          shape.get('label', ''),
          _to_segmentation(shape, size),
        )
        for shape in shapes
      ),
    )
  except KeyError as error:
    raise ValueError(f'{path}: image {name}: no attribute {error}') from error
  except ValueError as error:
    raise ValueError(f'{path}: image {name}: {error}') from error


def _to_segmentation(
  shape: ElementTree.Element, size: tuple[int, int]
) -> list[list[float]] | np.ndarray:
  """Returns a shape in COCO's form, or as a mask."""

  def numbers(*keys: str) -> list[float]:
    return [float(shape.attrib[key]) for key in keys]

  turn = float(shape.get('rotation', 0))
  if shape.tag == 'polygon':
    pairs = [pair.split(',') for pair in shape.attrib['points'].split(';')]
    return [[float(value) for pair in pairs for value in pair]]
  if shape.tag == 'box':
    left, top, right, bottom = numbers('xtl', 'ytl', 'xbr', 'ybr')
    corners = [left, top, right, top, right, bottom, left, bottom]
    return [rasterize.rotate_polygon(corners, turn)]
  if shape.tag == 'ellipse':
    return [
      rasterize.rotate_polygon(
        rasterize.ellipse_polygon(*numbers('cx', 'cy', 'rx', 'ry')), turn
      )
    ]
  if shape.tag == 'mask':
    return _decode_mask(shape, size)
  raise ValueError(
    f'{shape.tag} ({shape.get("label")}): it encloses nothing; draw a polygon '
    'or remove it'
  )


def _decode_mask(
  shape: ElementTree.Element, size: tuple[int, int]
) -> np.ndarray:
  """Decodes a mask: run lengths along the rows of its bounding box."""
  left, top, width, height = (
    int(shape.attrib[key]) for key in ('left', 'top', 'width', 'height')
  )
  runs = [int(run) for run in shape.attrib['rle'].split(',')]
  whole = np.zeros(size, bool)
  place = whole[top : top + height, left : left + width]
  if min(left, top, *runs) < 0 or place.shape != (height, width):
    raise ValueError('broken mask: it does not lie inside the image')
  if sum(runs) != height * width:
    raise ValueError(
      f'broken mask: {sum(runs)} pixels for {width}x{height} pixels'
    )
  place[...] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(
    height, width
  )
  return whole
