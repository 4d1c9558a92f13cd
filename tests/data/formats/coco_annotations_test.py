"""COCO's annotation JSON: reading, and rasterizing with errors."""

import json

import numpy as np
import pytest

from deeplab.data.formats import coco_annotations

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]


def annotation(i, image, segmentation=SQUARE, category=5):
  return {
    'id': i,
    'image_id': image,
    'category_id': category,
    'segmentation': segmentation,
  }


def test_read_annotations(tmp_path):
  path = tmp_path / 'val.json'
  content = {
    'images': [
      {'id': 8, 'file_name': 'b.png'},
      {'id': 7, 'file_name': 'a.png'},
    ],
    'annotations': [annotation(1, 8), annotation(2, 7), annotation(3, 8)],
    'categories': [{'id': 5, 'name': 'road'}],
  }
  path.write_text(json.dumps(content), 'utf-8')
  got = coco_annotations.read_annotations(path)
  assert got.path == path
  assert [entry['file_name'] for entry in got.images] == ['a.png', 'b.png']
  ids = {image: [a['id'] for a in x] for image, x in got.annotations.items()}
  assert ids == {7: [2], 8: [1, 3]}
  assert got.categories == {5: 'road'}


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', r'not valid JSON \(Expecting property name'),
    ('[' * 100_000, 'nested too deeply'),
    ('[]', r'not a COCO file \(\[\] is no object with annotations\)'),
    ('{"images": []}', r'not a COCO file \(annotations is missing\)'),
    ('{"annotations": 7}', r'\(annotations is 7, not a list\)'),
    ('{"annotations": [null]}', r'\(annotations holds None, not an object\)'),
    ('{"annotations": [{"image_id": []}]}', r'\(image_id is \[\], not a whole'),
    ('{"annotations": [{"image_id": 1.5}]}', r'\(image_id is 1\.5, not a whol'),
    ('{"annotations": [], "images": [{"id": 1}]}', 'file_name is missing'),
    (
      '{"annotations": [], "images": [{"id": 1, "file_name": "\\ud800"}]}',
      r"'\\ud800' is not the name of a file",
    ),
    (
      '{"annotations": [], "images": [], "categories": [{"id": 1, "name": 2}]}',
      'name is 2, not a text',
    ),
  ],
)
def test_a_damaged_file_is_an_error(tmp_path, text, message):
  path = tmp_path / 'val.json'
  path.write_text(text, 'utf-8')
  with pytest.raises(ValueError, match=r'val\.json.* damaged.*' + message):
    coco_annotations.read_annotations(path)


def test_ids_are_whole_numbers_or_texts(tmp_path):
  """A whole float is a whole number; numbers are sorted before texts."""
  path = tmp_path / 'val.json'
  content = {
    'images': [
      {'id': 'x', 'file_name': 'x.png'},
      {'id': 8.0, 'file_name': 'b.png'},
    ],
    'annotations': [annotation(1, 8)],
    'categories': [{'id': 5.0, 'name': 'road'}],
  }
  path.write_text(json.dumps(content), 'utf-8')
  got = coco_annotations.read_annotations(path)
  assert [entry['file_name'] for entry in got.images] == ['b.png', 'x.png']
  assert [a['id'] for a in got.annotations[8]] == [1]
  assert got.categories == {5: 'road'}


def test_an_image_must_exist(tmp_path):
  path = tmp_path / 'val.json'
  (tmp_path / 'a.png').touch()
  entry = {'file_name': 'a.png'}
  got = coco_annotations.require_image_file(tmp_path, entry, path)
  assert got == tmp_path / 'a.png'
  with pytest.raises(
    ValueError, match=r'b\.png: no such file, but .*val\.json'
  ):
    coco_annotations.require_image_file(tmp_path, {'file_name': 'b.png'}, path)
  for name in ('/etc/passwd', '../a.png'):
    with pytest.raises(ValueError, match=r"' leads out of the folder of the d"):
      coco_annotations.require_image_file(tmp_path, {'file_name': name}, path)


def test_rasterize_annotations():
  ((category, mask),) = coco_annotations.rasterize_annotations(
    [annotation(1, 7)], (4, 5)
  )
  expected = np.zeros((4, 5), bool)
  expected[1:3, 1:3] = True
  assert category == 5
  np.testing.assert_array_equal(mask, expected)
  with pytest.raises(
    ValueError, match=r'^annotation 4 of image 7: broken polyg'
  ):
    list(coco_annotations.rasterize_annotations([annotation(4, 7, [])], (4, 5)))
