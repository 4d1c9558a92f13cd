"""CVAT's XML format "CVAT for images 1.1": many images in one file.

The file of a split is ROOT/SPLIT.xml or ROOT/SPLIT/annotations.xml. Images are
searched in the folder of that file, then in ROOT/SPLIT, ROOT/SPLIT/images,
ROOT/images and ROOT.

Polygons, boxes, ellipses and masks are rasterized in z order. A shape without
area, such as a polyline, is an error. Tags of whole images are skipped.
"""

import functools
import pathlib
from xml.etree import ElementTree

import numpy as np

from deeplab.data.formats import class_table
from deeplab.data.formats import fields
from deeplab.data.preparation import rasterize
from deeplab.data.preparation import raw_examples
from deeplab.files import text_files


def find_examples(
  base: pathlib.Path, split: str, classes: class_table.ClassTable
) -> list[raw_examples.RawExample] | None:
  """Returns the examples of a split, or None if it has no CVAT file.

  Raises:
    ValueError: the file is damaged, or an image that it names is missing.
  """
  files = base / f'{split}.xml', base / split / 'annotations.xml'
  path = next((path for path in files if path.is_file()), None)
  if path is None:
    return None
  images = text_files.read_xml(path).findall('image')
  try:
    named = [(fields.get_text(image.attrib, 'name'), image) for image in images]
  except ValueError as error:
    raise ValueError(
      f'{path}: damaged, or not a "CVAT for images" file ({error})'
    ) from error
  if not named:
    raise ValueError(
      f'{path}: lists no image; export the task as "CVAT for images 1.1"'
    )
  folders = (
    *(path.parent, base / split, base / split / 'images'),
    *(base / 'images', base),
  )
  return class_table.make_raw_examples(
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
  classes: class_table.ClassTable,
) -> np.ndarray:
  """Rasterizes the shapes of one image, [H, W] uint8 train ids."""
  name = image.get('name')
  try:
    size = fields.get_size(image.attrib)
    shapes = [shape for shape in image if shape.tag != 'tag']
    shapes.sort(key=lambda s: fields.get_number(s.attrib, 'z_order', 0))
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
  except ValueError as error:
    raise ValueError(f'{path}: image {name}: {error}') from error


def _to_segmentation(
  shape: ElementTree.Element, size: tuple[int, int]
) -> list[list[float]] | np.ndarray:
  """Converts a shape to COCO's polygons, or to a mask [H, W] bool."""

  def numbers(*keys: str) -> list[float]:
    return [fields.get_number(shape.attrib, key) for key in keys]

  rotation = fields.get_number(shape.attrib, 'rotation', 0)
  if shape.tag == 'polygon':
    if not shape.get('points'):
      return []
    points = fields.get_text(shape.attrib, 'points').split(';')
    pairs = [point.split(',') for point in points]
    for pair in pairs:
      if len(pair) != 2:
        raise ValueError(f'broken polygon: {",".join(pair)!r} is not `x,y`')
    return [[float(value) for pair in pairs for value in pair]]
  if shape.tag == 'box':
    left, top, right, bottom = numbers('xtl', 'ytl', 'xbr', 'ybr')
    corners = [left, top, right, top, right, bottom, left, bottom]
    return [rasterize.rotate_polygon(corners, rotation)]
  if shape.tag == 'ellipse':
    return [
      rasterize.rotate_polygon(
        rasterize.ellipse_polygon(*numbers('cx', 'cy', 'rx', 'ry')), rotation
      )
    ]
  if shape.tag == 'mask':
    return _decode_mask(shape, size)
  raise ValueError(
    f'{shape.tag} ({shape.get("label")}): a {shape.tag} has no area; draw a '
    'polygon or remove it'
  )


def _decode_mask(
  shape: ElementTree.Element, size: tuple[int, int]
) -> np.ndarray:
  """Decodes run lengths along the rows of a bounding box to [H, W] bool."""
  left, top, width, height = (
    fields.get_whole(shape.attrib, key)
    for key in ('left', 'top', 'width', 'height')
  )
  mask = np.zeros(size, bool)
  box = mask[top : top + height, left : left + width]
  if min(left, top) < 0 or box.shape != (height, width):
    raise ValueError('broken mask: it does not lie inside the image')
  try:
    runs = [int(run) for run in fields.get_text(shape.attrib, 'rle').split(',')]
    pixels = rasterize.expand_runs(runs, height * width)
  except ValueError as error:
    raise ValueError(
      f'broken mask in a box of {width}x{height}: {error}'
    ) from error
  box[...] = pixels.reshape(height, width)
  return mask
