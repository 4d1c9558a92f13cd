"""labelme's files: layouts, every shape, and errors."""

import base64
import io
import json
import pathlib

import numpy as np
from PIL import Image
import pytest

from deeplab.data.formats import class_table
from deeplab.data.formats import labelme
from tests.data.builders import layouts


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
  return labelme.read_label(path, class_table.load_class_table(named.data))


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
      shape('road', [[1, 1], [2, 2]]),
      r'a\.json: shape 1 \(road\): broken polygon: 2 points enclose no area',
    ),
    (
      shape('lane', ROAD['points']),
      r"a\.json: shape 1 \(lane\): category 'lane' is not one of the classes",
    ),
    (
      shape('road', [[1, 1], [2, 2]], 'line'),
      r'a\.json: shape 1: a line has no area; draw a polygon',
    ),
    (shape('car', [[1, 1]], 'rectangle'), 'shape 1: broken rectangle'),
    (shape('car', 7), 'shape 1: broken polygon'),
    ({'points': []}, r'a\.json: damaged, or not a labelme file .*label'),
  ],
)
def test_bad_shapes(named, tmp_path, one, message):
  with pytest.raises(ValueError, match=message):
    read(named, write(tmp_path / 'a.json', one))


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
