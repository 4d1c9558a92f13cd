"""CVAT's XML: layouts, every shape, and errors."""

import pathlib

import numpy as np
import pytest

from deeplab.data.preparation import errors
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


def label_of(config, write_image, *shapes, size=(6, 8)):
  root = pathlib.Path(config.data.root)
  write(root / 'val.xml', *shapes, size=size)
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


def test_shapes_without_an_area_are_left_out(named, write_image):
  root = pathlib.Path(named.data.root)
  empty = [
    '<polygon label="road" points="0,0;4,0"/>',
    ROAD.replace('points', 'pts'),
  ]
  write(root / 'val.xml', *empty, CAR)
  write_image(root / 'val/a.png')
  with errors.collect_notes() as notes:
    (got,) = layouts.examples(named)
  assert np.unique(got['label']).tolist() == [0, 2]
  assert notes == [
    'val: 2 shapes left out, such as polygon (road): broken polygon: 2 points '
    'enclose no area'
  ]


@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    (
      ROAD.replace('road', 'lane'),
      r"image a\.png: polygon \(lane\): category 'lane' is not one of",
    ),
    (
      ROAD.replace('polygon', 'polyline'),
      r'image a\.png: polyline \(road\): a polyline has no area',
    ),
    (
      '<mask label="car" rle="1,2" left="4" top="1" width="2" height="2"/>',
      'broken mask in a box of 2x2: run lengths of 3 pixels in place of 4',
    ),
    (
      '<mask label="car" rle="4" left="7" top="1" width="2" height="2"/>',
      'broken mask: it does not lie inside',
    ),
    (
      '<mask label="car" rle="2,-2,4" left="4" top="1" width="2" height="2"/>',
      'box of 2x2: run lengths are not whole numbers of 0 to 4 pixels',
    ),
    (
      '<mask label="car" rle="2,2" left="9999999999999999999999" top="1" '
      'width="2" height="2"/>',
      "left is '9999999999999999999999', a number that is too large",
    ),
    (
      '<box label="car" xtl="1" ytl="2" xbr="inf" ybr="4" z_order="0"/>',
      "xbr is 'inf', not a finite number",
    ),
    (
      '<box label="car" xtl="1" ytl="2" xbr="1e308" ybr="4" rotation="30"/>',
      'far outside the image of 8x6 pixels',
    ),
    (
      '<ellipse label="car" cx="4" cy="3" rx="1e308" ry="1e308"/>',
      'far outside the image of 8x6 pixels',
    ),
    (
      '<polygon label="road" points="0,0,4;0;4,6;0,6"/>',
      "broken polygon: '0,0,4' is not `x,y`",
    ),
    (
      '<polygon label="road" points="0,0;4,0;4,6" z_order="nan"/>',
      "z_order is 'nan', not a finite number",
    ),
    ('<polygon', r'val\.xml: damaged, or not XML \(not well-formed'),
    ('<a>' * 50_000, r'val\.xml: damaged, or not XML \(mismatched tag'),
    ('&other;', r'val\.xml: damaged, or not XML \(undefined entity'),
  ],
)
def test_bad_shapes(named, write_image, shape, message):
  with pytest.raises(ValueError, match=message):
    label_of(named, write_image, shape)


@pytest.mark.parametrize(
  ('head', 'message'),
  [
    (
      '<?xml version="1.0" encoding="none"?>',
      r'val\.xml: damaged, or not XML \(unknown encoding',
    ),
    (
      '<?xml version="1.0" encoding="big5"?>',
      r'val\.xml: damaged, or not XML \(multi-byte encodings',
    ),
    (
      '<!DOCTYPE annotations [<!ENTITY a0 "xxxxxxxxxx">'
      + ''.join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
      + ']>',
      r'val\.xml: damaged, or not XML \(limit on input amplification',
    ),
    ('no XML', r'val\.xml: damaged, or not XML \(syntax error'),
  ],
)
def test_damaged_files(named, head, message):
  """Entities that expand a billionfold are refused within a moment."""
  path = pathlib.Path(named.data.root) / 'val.xml'
  path.write_text(f'{head}<annotations>&a9;</annotations>', 'utf-8')
  with pytest.raises(ValueError, match=message):
    layouts.examples(named)


def test_whole_floats_are_whole_numbers(named, write_image):
  np.testing.assert_array_equal(
    label_of(named, write_image, ROAD, size=('6.0', '8.0')),
    label_of(named, write_image, ROAD),
  )


@pytest.mark.parametrize(
  ('size', 'message'),
  [
    (('6.5', '8'), "image a.png: height is '6.5', not a whole number"),
    (('6', ''), "image a.png: width is '', not a whole number"),
    (('0', '8'), 'an image of 8x0 pixels and 3 channels has no pixels'),
    (('100000', '8000'), 'takes 2289 MiB, more than 512'),
    (('9' * 25, '8'), r"height is '9{25}', a number that is too large"),
    (('9' * 5000, '8'), r"height is '9999.*\.\.\..*9', not a whole number"),
  ],
)
def test_odd_sizes(named, write_image, size, message):
  with pytest.raises(ValueError, match=message):
    label_of(named, write_image, ROAD, size=size)


def test_videos_are_rejected(named):
  path = pathlib.Path(named.data.root) / 'val.xml'
  path.write_text('<annotations><track id="0"/></annotations>', 'utf-8')
  with pytest.raises(ValueError, match='lists no image; export the task as'):
    layouts.examples(named)


@pytest.mark.parametrize('name', ['../a.png', '/etc/a.png', '..\\a.png'])
def test_names_that_lead_out_of_the_data_set(named, name):
  content = f'<annotations><image name="{name}" width="8" height="6"/>'
  path = pathlib.Path(named.data.root) / 'val.xml'
  path.write_text(f'{content}</annotations>', 'utf-8')
  with pytest.raises(ValueError, match=r'val\.xml: .* leads out of the folder'):
    layouts.examples(named)


def test_errors_name_what_does_not_match(named, write_image):
  root = pathlib.Path(named.data.root)
  write(root / 'val.xml', ROAD, size=(6, 9))
  with pytest.raises(ValueError, match=r'a\.png: no such file, but .*val\.xml'):
    layouts.examples(named)
  write_image(root / 'a.png')
  with pytest.raises(ValueError, match=r'val\.xml: mask of 9x6 .* of 8x6'):
    layouts.examples(named)
