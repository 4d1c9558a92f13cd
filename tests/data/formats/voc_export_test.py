"""Pascal VOC exports: colors by a label map, and errors."""

import pathlib

import numpy as np
from PIL import Image
import pytest

from tests.data.builders import layouts

LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
car:10,20,30::
tree:1,2,3::
road:200,100,50::
"""
# In the order of the label map, which is not that of the classes.
MAP_IDS = np.zeros((6, 8), np.uint8)
MAP_IDS[:, :4] = 3
MAP_IDS[2:4, 2:4] = 1
MAP_IDS[5] = 4  # the border
COLORS = np.array(
  [(0, 0, 0), (10, 20, 30), (1, 2, 3), (200, 100, 50), (224, 224, 192)],
  np.uint8,
)
LABEL = np.array([0, 2, 99, 1, 255], np.uint8)[MAP_IDS]


@pytest.fixture
def export(named, write_image):
  """An export of one image, with colored masks."""
  root = pathlib.Path(named.data.root)
  (root / 'ImageSets/Segmentation').mkdir(parents=True)
  (root / 'ImageSets/Segmentation/val.txt').write_text('a\n', 'utf-8')
  (root / 'labelmap.txt').write_text(LABELMAP, 'utf-8')
  write_image(root / 'JPEGImages/a.jpg')
  (root / 'SegmentationClass').mkdir()
  save(root, Image.fromarray(COLORS[MAP_IDS]))
  return root


def save(root, mask):
  mask.save(root / 'SegmentationClass/a.png')


def test_colors(named, export):
  (got,) = layouts.examples(named)
  np.testing.assert_array_equal(got['label'], LABEL)


def test_palette_masks_are_read_by_color(named, export):
  # The palette's own order is that of neither the label map nor the classes.
  mask = Image.frombytes('P', (8, 6), (4 - MAP_IDS).tobytes())
  mask.putpalette(COLORS[::-1].tobytes())
  save(export, mask)
  (got,) = layouts.examples(named)
  np.testing.assert_array_equal(got['label'], LABEL)


def test_grey_masks_hold_line_numbers(named, export):
  save(export, Image.fromarray(np.where(MAP_IDS == 4, 255, MAP_IDS)))
  (got,) = layouts.examples(named)
  np.testing.assert_array_equal(got['label'], LABEL)


def test_without_a_label_map_masks_hold_ids(named, export):
  (export / 'labelmap.txt').unlink()
  save(export, Image.fromarray(LABEL))
  (got,) = layouts.examples(named)
  np.testing.assert_array_equal(got['label'], LABEL)


def unknown_category(root):
  save(root, Image.new('RGB', (8, 6), (1, 2, 3)))


def unknown_color(root):
  save(root, Image.new('RGB', (8, 6), (1, 2, 4)))


def other_size(root):
  save(root, Image.new('RGB', (8, 7)))


def no_mask(root):
  (root / 'SegmentationClass/a.png').unlink()


def no_image(root):
  (root / 'JPEGImages/a.jpg').unlink()


def bad_line(root):
  (root / 'labelmap.txt').write_text('road 1 2 3\n', 'utf-8')


def large_color(root):
  (root / 'labelmap.txt').write_text('road:0,0,256::\n', 'utf-8')


def superscript(root):
  (root / 'labelmap.txt').write_text('road:0,0,²::\n', 'utf-8')


def no_class(root):
  (root / 'labelmap.txt').write_text('# label:color_rgb\n', 'utf-8')


def other_encoding(root):
  (root / 'labelmap.txt').write_text(f'ä{LABELMAP}', 'latin-1')


def list_in_another_encoding(root):
  path = root / 'ImageSets/Segmentation/val.txt'
  path.write_bytes('straße\n'.encode('latin-1'))


def long_name(root):
  path = root / 'ImageSets/Segmentation/val.txt'
  path.write_text('a' * 300)


def name_outside(root):
  path = root / 'ImageSets/Segmentation/val.txt'
  path.write_text('../../../a')


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (name_outside, r"val\.txt: '\.\./\.\./\.\./a' leads out of the folder"),
    (unknown_category, r"a\.png: category 'tree' is not one of the classes"),
    (unknown_color, r'a\.png: color \(1, 2, 4\) at row 0, column 0'),
    (other_size, r'a\.png: mask of 8x7 pixels for an image of 8x6'),
    (no_mask, r"val: split 'val' is empty"),
    (no_image, r'JPEGImages/a\.jpg: no such file, but .*val\.txt names it'),
    (bad_line, r'labelmap\.txt: line 1 is not `name:red,green,blue::`'),
    (
      large_color,
      r"map\.txt: line 1 is not .*color '0 0 256' is not three who",
    ),
    (superscript, r"labelmap\.txt: line 1 is not .*color '0 0 ²' is not three"),
    (no_class, r'labelmap\.txt: 0 classes; labels of 8 bits can have 1 to 255'),
    (other_encoding, r'labelmap\.txt: not a text in UTF-8 \(byte 0\)'),
    (list_in_another_encoding, r'val\.txt: not a text in UTF-8 \(byte 4\)'),
    (long_name, r'a{300}\.jpg: no such file, but .*val\.txt names it'),
  ],
)
def test_bad_input_raises_a_clear_error(named, export, damage, message):
  damage(export)
  with pytest.raises(ValueError, match=message):
    layouts.examples(named)
