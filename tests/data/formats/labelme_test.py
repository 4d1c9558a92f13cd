"""labelme's files: layouts, every shape, and errors."""

import base64
import io
import json
import math
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from deeplab.data import datasets
from deeplab.data.formats import class_table
from deeplab.data.formats import labelme
from deeplab.data.preparation import errors
from deeplab.doctor import example_loader
from tests.data.builders import layouts


def bits(height, width):
  """Returns the base64 of a PNG whose header promises a size, of no pixels."""
  header = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
  data = b'\x89PNG\r\n\x1a\n'
  for kind, content in ((b'IHDR', header), (b'IDAT', b''), (b'IEND', b'')):
    code = zlib.crc32(kind + content)
    data += struct.pack('>I', len(content)) + kind + content
    data += struct.pack('>I', code)
  return base64.b64encode(data).decode()


def shape(label, points, kind='polygon', **more):
  return {'label': label, 'points': points, 'shape_type': kind} | more


ROAD = shape('road', [[0, 0], [4, 0], [4, 6], [0, 6]])
CAR = shape('car', [[2, 2], [4, 4]], 'rectangle')
LABEL = np.zeros((6, 8), np.uint8)
LABEL[:, :4] = 1
LABEL[2:4, 2:4] = 2


def write(path, *shapes, size=(6, 8)):
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {
    'version': '5.4.1',
    'shapes': list(shapes),
    'imagePath': f'{path.stem}.png',
    'imageData': None,
    'imageHeight': size[0],
    'imageWidth': size[1],
  }
  path.write_text(json.dumps(content), 'utf-8')
  return path


@pytest.mark.parametrize(
  ('annotation', 'image'),
  [('val/a.json', 'val/a.png'), ('val/labels/a.json', 'val/images/a.png')],
)
def test_folders(named, write_image, annotation, image):
  root = pathlib.Path(named.data.root)
  write(root / annotation, ROAD, CAR)
  write_image(root / image)
  (got,) = layouts.examples(named)
  np.testing.assert_array_equal(got['label'], LABEL)


def test_list_files_mix_masks_and_json(named, write_image):
  root = pathlib.Path(named.data.root)
  for stem in 'ab':
    write_image(root / f'{stem}.png')
  write(root / 'b.json', ROAD, CAR)
  Image.fromarray(LABEL).save(root / 'mask.png')
  (root / 'val.txt').write_text('a.png mask.png\nb.png b.json\n', 'utf-8')
  first, second = layouts.examples(named)
  np.testing.assert_array_equal(first['label'], LABEL)
  np.testing.assert_array_equal(second['label'], LABEL)


def read(named, path):
  classes = class_table.load_class_table(named.data)
  return labelme.read_label(path, classes, path.with_suffix('.png'))


@pytest.fixture(autouse=True)
def _nothing_left_out():
  """Shapes that other tests left out do not count."""
  errors.take_left_out()


@pytest.mark.parametrize(
  ('kind', 'points'),
  [
    ('rectangle', [[2, 2], [4, 4]]),
    ('rectangle', [[4, 4], [2, 2]]),
    ('rectangle', [[2, 2], [4, 2], [4, 4], [2, 4]]),
    ('rotation', [[2, 2], [4, 2], [4, 4], [2, 4]]),
    ('rotated_rectangle', [[2, 2], [4, 2], [4, 4], [2, 4]]),
    ('quadrilateral', [[2, 2], [4, 2], [4, 4], [2, 4]]),
    ('anything', [[2, 2], [4, 2], [4, 4], [2, 4]]),
    (None, [[2, 2], [4, 2], [4, 4], [2, 4]]),
  ],
)
def test_closed_shapes(named, tmp_path, kind, points):
  path = write(tmp_path / 'a.json', ROAD, shape('car', points, kind))
  np.testing.assert_array_equal(read(named, path), LABEL)
  assert errors.take_left_out() == ''


@pytest.mark.parametrize(
  'one',
  [
    shape('car', []),
    shape('car', None),
    shape('car', [[1, 1]], 'rectangle'),
    shape('car', [[1, 1], [2, 2]]),
    shape('car', [], 'mask', mask=''),
    {'label': 'car', 'shape_type': 'polygon'},
  ],
)
def test_shapes_without_an_area_are_left_out_and_counted(named, tmp_path, one):
  path = write(tmp_path / 'a.json', ROAD, CAR, one, one)
  np.testing.assert_array_equal(read(named, path), LABEL)
  assert errors.take_left_out().startswith(
    '2 shapes left out, such as shape 3 (car): broken polygon: '
  )
  with pytest.raises(ValueError, match="'lane' is not one of the classes"):
    read(named, write(tmp_path / 'b.json', one | {'label': 'lane'}))


@pytest.mark.parametrize('orientation', [1, 6])
def test_a_file_without_a_size_has_that_of_its_image(
  named, tmp_path, orientation
):
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored = (8, 6) if orientation == 1 else (6, 8)
  Image.new('RGB', stored).save(tmp_path / 'a.png', exif=exif)
  path = write(tmp_path / 'a.json', ROAD, CAR, size=(None, None))
  np.testing.assert_array_equal(read(named, path), LABEL)


def test_what_is_left_out_is_noted_again_by_the_doctor(named, write_image):
  root = pathlib.Path(named.data.root)
  write(root / 'val/a.json', ROAD, CAR, shape('car', []))
  write_image(root / 'val/a.png')
  for _ in range(2):  # while it prepares the data, and when it finds it
    count, issues = example_loader.list_examples(
      datasets.Dataset(named.data), 'val'
    )
    assert count == 1
    assert [issue.text.partition(', such')[0] for issue in issues] == [
      'val: 1 shapes left out'
    ]


def test_masks(named, tmp_path):
  pixels = np.array([[0, 1, 1], [1, 1, 0]], np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'PNG')
  data = base64.b64encode(file.getvalue()).decode()
  one = shape('car', [[4, 1], [7, 3]], 'mask', mask=data)
  label = read(named, write(tmp_path / 'a.json', one))
  expected = np.zeros((6, 8), np.uint8)
  expected[1:3, 4:7] = 2 * pixels
  np.testing.assert_array_equal(label, expected)
  one['points'] = [[6, 1], [9, 3]]
  with pytest.raises(ValueError, match=r'broken mask: .*not lie inside'):
    read(named, write(tmp_path / 'a.json', one))


def test_circles(named, tmp_path):
  one = shape('void', [[50, 40], [50, 70]], 'circle')
  label = read(named, write(tmp_path / 'a.json', one, size=(80, 100)))
  y, x = np.mgrid[:80, :100] + 0.5
  inside = (x - 50) ** 2 + (y - 40) ** 2
  assert (label[inside < 29**2] == 255).all()
  assert (label[inside > 31**2] == 0).all()


@pytest.mark.parametrize(
  ('one', 'message'),
  [
    (
      shape('lane', ROAD['points']),
      r"a\.json: shape 1 \(lane\): category 'lane' is not one of the classes",
    ),
    (
      shape('road', [[1, 1], [2, 2]], 'line'),
      r'a\.json: shape 1: a line has no area; draw a polygon',
    ),
    (shape('car', [[1, 1]], 'circle'), 'circle: 1 points in place of 2'),
    (shape('car', 7), 'shape 1: broken polygon: points is 7, not a list'),
    (shape('car', [[1, 'x']]), r"holds \[1, 'x'\], not a pair of numbers"),
    (shape('car', [[1, 2, 3]]), r'holds \[1, 2, 3\], not a pair of numbers'),
    (
      shape('car', [[0, 0], [math.inf, 5]], 'rectangle'),
      r'point \(inf, 0\) is',
    ),
    (shape('car', [[0, 0], [math.inf, 5]], 'circle'), 'is far outside the ima'),
    (shape('car', [[0, 0], [1e308, 5]], 'circle'), 'is far outside the image'),
    (shape('car', ROAD['points'], []), r'shape 1: a \[\] has no area'),
    (shape('car', [[1, 1]], 'mask'), 'broken mask: mask is missing'),
    (
      shape('car', [[1, 1]], 'mask', mask='AAAA'),
      'the mask: damaged or not an',
    ),
    (
      shape('car', [[math.inf, 1]], 'mask', mask=bits(2, 2)),
      'broken mask: cannot convert float infinity to integer',
    ),
    (
      shape('car', [[0, 0]], 'mask', mask=bits(30_000, 30_000)),
      'the mask: the image has more than 179 million pixels',
    ),
    (shape(7, ROAD['points']), 'not a labelme file .label is 7, not a text'),
    ({'points': []}, r'a\.json: damaged, or not a labelme file .*label'),
    (None, r'a\.json: damaged, or not a labelme file .shapes holds None, not '),
  ],
)
def test_bad_shapes(named, tmp_path, one, message):
  with pytest.raises(ValueError, match=message):
    read(named, write(tmp_path / 'a.json', one))


@pytest.mark.parametrize(
  ('size', 'message'),
  [
    ((6, 8.5), 'imageWidth is 8.5, not a whole number'),
    ((None, 8), r'a\.png: not an image file, but absent'),
    ((math.inf, 8), 'imageHeight is inf, not a whole number'),
    ((10**30, 8), 'imageHeight is 10{30}, a number that is too large'),
    ((0, 8), 'an image of 8x0 pixels and 3 channels has no pixels'),
    ((30_000, 30_000), 'takes 2575 MiB, more than 512'),
  ],
)
def test_odd_sizes(named, tmp_path, size, message):
  with pytest.raises(ValueError, match=r'a\.json: damaged, or .*' + message):
    read(named, write(tmp_path / 'a.json', ROAD, size=size))


def test_whole_floats_are_whole_numbers(named, tmp_path):
  label = read(named, write(tmp_path / 'a.json', ROAD, CAR, size=(6.0, 8.0)))
  np.testing.assert_array_equal(label, LABEL)


def test_deep_nesting_is_an_error(named, tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('{"shapes":' * 50_000, 'utf-8')
  with pytest.raises(ValueError, match=r'a\.json .*it is nested too deeply'):
    read(named, path)


def test_errors_name_what_does_not_match(named, write_image):
  root = pathlib.Path(named.data.root)
  write_image(root / 'val/a.png')
  write(root / 'val/a.json', ROAD, size=(6, 9))
  with pytest.raises(ValueError, match=r'a\.json: mask of 9x6 .* of 8x6'):
    layouts.examples(named)
  write_image(root / 'val/b.png')
  with pytest.raises(ValueError, match=r'b\.png: image without .*val/b\.json'):
    layouts.examples(named)
  (root / 'val/b.png').rename(root / 'b.png')
  (root / 'val/a.png').unlink()
  with pytest.raises(ValueError, match=r'a\.json: mask without an image'):
    layouts.examples(named)
