"""CVAT's XML: layouts, every shape, and errors."""

import pathlib

import numpy as np
import pytest

from tests.data.builders import layouts

ROAD = '<polygon label="road" points="0,0;4,0;4,6;0,6" z_order="0"/>'
CAR = '<box label="car" xtl="2" ytl="2" xbr="4" ybr="4" z_order="1"/>'
LABEL = np.zeros((6, 8), np.uint8)
LABEL[:, :4] = 1
LABEL[2:4, 2:4] = 2


def write(path, *shapes, name='a.png', size=(6, 8)):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
    '<?xml version="1.0" encoding="utf-8"?>\n<annotations>'
    '<version>1.1</version>'
    f'<image id="0" name="{name}" width="{size[1]}" height="{size[0]}">'
    f'{"".join(shapes)}</image></annotations>',
    'utf-8',
  )


def label_of(config, write_image, *shapes):
  root = pathlib.Path(config.data.root)
  write(root / 'val.xml', *shapes)
  write_image(root / 'a.png')
  (got,) = layouts.examples(config)
  return got['label']


@pytest.mark.parametrize(
  ('annotations', 'image'),
  [
    ('val.xml', 'val/a.png'),
    ('val.xml', 'images/a.png'),
    ('val/annotations.xml', 'val/images/a.png'),
  ],
)
def test_layouts(named, write_image, annotations, image):
  root = pathlib.Path(named.data.root)
  write(root / annotations, '<tag label="dusk"/>', ROAD, CAR)
  write_image(root / image)
  (got,) = layouts.examples(named)
  assert got['name'] == 'a'
  np.testing.assert_array_equal(got['label'], LABEL)


def test_shapes_are_drawn_in_z_order(named, write_image):
  label = label_of(named, write_image, CAR, ROAD)
  np.testing.assert_array_equal(label, LABEL)
  label = label_of(named, write_image, CAR.replace('z_order="1"', ''), ROAD)
  assert (label[:, :4] == 1).all()


def test_masks(named, write_image):
  """Run lengths are row-major and begin with pixels outside the mask."""
  mask = (
    '<mask label="car" rle="1, 2, 1, 2" left="4" top="1" width="3" '
    'height="2" z_order="0"/>'
  )
  expected = np.zeros((6, 8), np.uint8)
  expected[1:3, 4:7] = [[0, 2, 2], [0, 2, 2]]
  np.testing.assert_array_equal(label_of(named, write_image, mask), expected)


def test_rotated_boxes_and_ellipses(named, write_image):
  box = (
    '<box label="car" xtl="1" ytl="2" xbr="7" ybr="4" rotation="90" '
    'z_order="0"/>'
  )
  expected = np.zeros((6, 8), np.uint8)
  expected[:, 3:5] = 2
  np.testing.assert_array_equal(label_of(named, write_image, box), expected)
  ellipse = (
    '<ellipse label="car" cx="4" cy="3" rx="2" ry="2.9" rotation="90" '
    'z_order="0"/>'
  )
  label = label_of(named, write_image, ellipse)
  assert (label[2:4, 2:6] == 2).all()
  assert (label[[0, 5]] == 0).all()
  assert (label[:, [0, 7]] == 0).all()


@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    (
      '<polygon label="road" points="0,0;4,0"/>',
      r'val\.xml: image a\.png: polygon \(road\): broken polygon: 2 points',
    ),
    (
      ROAD.replace('road', 'lane'),
      r"image a\.png: polygon \(lane\): category 'lane' is not one of",
    ),
    (
      ROAD.replace('polygon', 'polyline'),
      r'image a\.png: polyline \(road\): a polyline has no area',
    ),
    (ROAD.replace('points', 'pts'), "image a.png: attribute 'points'"),
    (
      '<mask label="car" rle="1,2" left="4" top="1" width="2" height="2"/>',
      'broken mask: run lengths of 3 pixels for a box of 2x2',
    ),
    (
      '<mask label="car" rle="4" left="7" top="1" width="2" height="2"/>',
      'broken mask: it does not lie inside',
    ),
    ('<polygon', r'val\.xml: damaged, or not a "CVAT for images" file'),
  ],
)
def test_bad_shapes(named, write_image, shape, message):
  with pytest.raises(ValueError, match=message):
    label_of(named, write_image, shape)


def test_videos_are_rejected(named):
  path = pathlib.Path(named.data.root) / 'val.xml'
  path.write_text('<annotations><track id="0"/></annotations>', 'utf-8')
  with pytest.raises(ValueError, match='lists no image; export the task as'):
    layouts.examples(named)


def test_errors_name_what_does_not_match(named, write_image):
  root = pathlib.Path(named.data.root)
  write(root / 'val.xml', ROAD, size=(6, 9))
  with pytest.raises(ValueError, match=r'a\.png: no such file, but .*val\.xml'):
    layouts.examples(named)
  write_image(root / 'a.png')
  with pytest.raises(ValueError, match=r'val\.xml: mask of 9x6 .* of 8x6'):
    layouts.examples(named)
