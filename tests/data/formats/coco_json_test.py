"""COCO JSON of a folder: layouts, polygons and run lengths, errors."""

import json
import pathlib

import numpy as np
import pytest

from deeplab.data.preparation import errors
from tests.data.builders import layouts

CATEGORIES = [{'id': 3, 'name': 'car'}, {'id': 9, 'name': 'road'}]
# A road over the left half, a car of 2x2 drawn over it.
ROAD = {'category_id': 9, 'segmentation': [[0, 0, 4, 0, 4, 6, 0, 6]]}
CAR = {
  'category_id': 3,
  # Columns of 6 pixels: 2 columns are off, and 2 pixels of the next two on.
  'segmentation': {'size': [6, 8], 'counts': [14, 2, 4, 2, 26]},
}
LABEL = np.zeros((6, 8), np.uint8)
LABEL[:, :4] = 1
LABEL[2:4, 2:4] = 2
# Pixels by id of two of COCO's own images.
GENUINE = {
  '000000471345': {0: 14109, 42: 2280, 43: 42, 51: 4645, 61: 286124},
  '000000475546': {0: 129160, 1: 45876, 41: 919, 42: 297, 72: 3364, 73: 7884},
}


def write(path, *annotations, **image):
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {
    'images': [
      {'id': 4, 'file_name': 'a.png', 'height': 6, 'width': 8} | image
    ],
    'annotations': [
      {'id': i, 'image_id': 4} | annotation
      for i, annotation in enumerate(annotations, 70)
    ],
    'categories': CATEGORIES,
  }
  path.write_text(json.dumps(content), 'utf-8')


@pytest.mark.parametrize(
  ('annotations', 'image'),
  [
    ('val.json', 'val/a.png'),
    ('val.json', 'val/images/a.png'),
    ('val.json', 'images/a.png'),
    ('val/_annotations.coco.json', 'val/a.png'),
    ('annotations/instances_val.json', 'images/val/a.png'),
  ],
)
def test_layouts(named, write_image, annotations, image):
  root = pathlib.Path(named.data.root)
  write(root / annotations, ROAD, CAR)
  write_image(root / image)
  (got,) = layouts.examples(named)
  assert got['name'] == 'a'
  np.testing.assert_array_equal(got['label'], LABEL)


def test_annotations_without_a_shape_are_left_out(named, write_image):
  root = pathlib.Path(named.data.root)
  write(
    root / 'val.json',
    ROAD | {'segmentation': [*ROAD['segmentation'], [1, 1, 2, 2]]},
    CAR,
    {'category_id': 9},
    {'category_id': 9, 'segmentation': []},
    {'category_id': 9, 'segmentation': None, 'bbox': [1, 1, 2, 2]},
    {'category_id': 9, 'segmentation': [[1, 1, 2, 2]]},
  )
  write_image(root / 'val/a.png')
  with errors.collect_notes() as notes:
    (got,) = layouts.examples(named)
  np.testing.assert_array_equal(got['label'], LABEL)
  assert notes == [
    'val: 5 shapes left out, such as annotation 70 of a.png: a polygon of less '
    'than three points'
  ]


def test_without_a_background_class_other_pixels_are_ignored(
  named, write_image
):
  root = pathlib.Path(named.data.root)
  named.data.class_names = ('sky', 'road', 'car')
  write(root / 'val.json', ROAD, CAR)
  write_image(root / 'images/a.png')
  (got,) = layouts.examples(named)
  expected = np.where(LABEL == 0, 255, LABEL)
  np.testing.assert_array_equal(got['label'], expected)


def test_the_name_after_the_classes_is_ignored(named, write_image):
  root = pathlib.Path(named.data.root)
  named.data.class_names = ('background', 'sky', 'car', 'road')
  write(root / 'val.json', ROAD, CAR)
  write_image(root / 'images/a.png')
  (got,) = layouts.examples(named)
  expected = np.where(LABEL == 1, 255, LABEL)
  np.testing.assert_array_equal(got['label'], expected)


@pytest.mark.parametrize(
  ('annotation', 'image', 'message'),
  [
    (
      ROAD | {'category_id': 5},
      {},
      r"70 of a\.png: category '5' is not one of the classes \(background, "
      r'road, car, void\); name it in config\.data\.class_names',
    ),
    (ROAD, {'width': 9}, r'val\.json: mask of 9x6 pixels for an image of 8x6'),
    (ROAD, {'file_name': 'b.png'}, r'b\.png: no such file, but .*val\.json'),
    (
      CAR | {'segmentation': {'size': [6, 8], 'counts': [9]}},
      {},
      'run lengths of 9 pixels in place of 48',
    ),
    (
      CAR | {'segmentation': {'size': [6, 8], 'counts': '>22'}},
      {},
      r'annotation 70 of a\.png: run lengths of 18 pixels in place of 48',
    ),
    (
      ROAD,
      {'width': 8.5},
      r'val\.json: image a\.png: width is 8\.5, not a whol',
    ),
    (ROAD, {'width': 10**20}, r'width is 10{20}, a number that is too large'),
    (
      ROAD,
      {'height': 30_000, 'width': 30_000},
      'takes 2575 MiB, more than 512',
    ),
    (
      ROAD,
      {'height': 0},
      'an image of 8x0 pixels and 3 channels has no pixels',
    ),
    (ROAD, {'file_name': 'a' * 300}, r'a{300}: no such file, but .*val\.json'),
    (ROAD, {'file_name': 'a\n.png'}, r"'a\\n\.png' is not the name of a file"),
    (
      ROAD | {'category_id': []},
      {},
      r'70 of a\.png: category_id is \[\], not a',
    ),
  ],
)
def test_bad_input_raises_a_clear_error(
  named, write_image, annotation, image, message
):
  root = pathlib.Path(named.data.root)
  write(root / 'val.json', annotation, **image)
  write_image(root / 'a.png')
  with pytest.raises(ValueError, match=message):
    layouts.examples(named)


def test_whole_floats_are_whole_numbers(named, write_image):
  root = pathlib.Path(named.data.root)
  road = ROAD | {'category_id': 9.0}
  write(root / 'val.json', road, CAR, id=4.0, height=6.0, width=8.0)
  write_image(root / 'a.png')
  (got,) = layouts.examples(named)
  np.testing.assert_array_equal(got['label'], LABEL)


def test_missing_class_names_are_an_error(named, write_image):
  root = pathlib.Path(named.data.root)
  named.data.class_names = ()
  write(root / 'val.json', ROAD)
  write_image(root / 'a.png')
  with pytest.raises(ValueError, match=r"'road' is not .* \(none is given\)"):
    layouts.examples(named)


def test_genuine_annotations(shared, named):
  """COCO's own file; expected counts from a NumPy drawing in file order."""
  named.data.root = str(shared / 'samples/coco')
  named.data.eval_split = 'val2017'
  names = json.loads(
    (shared / 'samples/coco/annotations/instances_val2017.json').read_text()
  )['categories']
  named.data.class_names = ('background', *(c['name'] for c in names))
  named.data.num_classes = 81
  got = {e['name']: layouts.counts(e['label']) for e in layouts.examples(named)}
  assert {name: got[name] for name in GENUINE} == GENUINE
