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


@pytest.mark.parametrize('text', ['{', '[]', '{"images": []}'])
def test_a_damaged_file_is_an_error(tmp_path, text):
  path = tmp_path / 'val.json'
  path.write_text(text, 'utf-8')
  with pytest.raises(
    ValueError, match=r'val\.json: damaged, or not a COCO file'
  ):
    coco_annotations.read_annotations(path)


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
