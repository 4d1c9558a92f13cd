"""The COCO panoptic builder: genuine samples, and missing files."""

import json
import shutil

import numpy as np
from PIL import Image
import pytest

from deeplab.data import catalog
from tests.data.builders import coco_test
from tests.data.builders import layouts

# Pixels by train id, counted with NumPy from the PNG files and the JSON file.
SAMPLES = {
  '000000142238': {
    0: 56327,
    32: 175,
    116: 130762,
    119: 8204,
    125: 75100,
    255: 2712,
  },
  '000000439180': {
    0: 28784,
    7: 7471,
    17: 31728,
    90: 11074,
    116: 91045,
    119: 12912,
    125: 40197,
    255: 7189,
  },
}


@pytest.fixture
def panoptic_config(config, tmp_path):
  config.data.name = 'coco_panoptic'
  config.data.root = str(tmp_path / 'coco')
  return config


def test_samples(shared, panoptic_config, tmp_path):
  samples, root = shared / 'samples/coco_panoptic', tmp_path / 'coco'
  annotations = root / 'annotations'
  annotations.mkdir(parents=True)
  (root / 'val2017').symlink_to(samples / 'input_images')
  (annotations / 'panoptic_val2017').symlink_to(samples / 'panoptic_examples')
  (annotations / 'panoptic_val2017.json').symlink_to(
    samples / 'panoptic_examples.json'
  )
  got = layouts.examples(panoptic_config)
  layouts.check_metadata(panoptic_config, got)
  assert {e['name']: layouts.counts(e['label']) for e in got} == SAMPLES


def test_categories_are_those_of_coco(shared):
  path = shared / 'samples/coco_panoptic/panoptic_coco_categories.json'
  categories = json.loads(path.read_text('utf-8'))
  info = catalog.INFOS['coco_panoptic']
  assert info.class_names == tuple(c['name'] for c in categories)
  assert info.palette == tuple(tuple(c['color']) for c in categories)
  assert dict(info.id_mapping) == {0: 255} | {
    c['id']: i for i, c in enumerate(categories)
  }
  assert sum(c['isthing'] for c in categories) == 80


def make(root, segments, annotations=1):
  """Writes one 4x2 image with segment 5 + 256 * 2; other pixels have none."""
  (root / 'val2017').mkdir(parents=True)
  (root / 'annotations/panoptic_val2017').mkdir(parents=True)
  Image.new('RGB', (4, 2)).save(root / 'val2017/x.jpg')
  colors = np.zeros((2, 4, 3), np.uint8)
  colors[:, :3] = (5, 2, 0)
  path = root / 'annotations/panoptic_val2017.json'
  Image.fromarray(colors).save(path.with_suffix('') / 'x.png')
  content = {
    'images': [{'id': 1, 'file_name': 'x.jpg', 'height': 2, 'width': 4}],
    'annotations': [
      {'image_id': 1, 'file_name': 'x.png', 'segments_info': segments}
    ]
    * annotations,
    'categories': [],
  }
  path.write_text(json.dumps(content), 'utf-8')


def test_segments_get_their_category(panoptic_config, tmp_path):
  make(tmp_path / 'coco', [{'id': 517, 'category_id': 92, 'iscrowd': 1}])
  (got,) = layouts.examples(panoptic_config)
  assert got['label'].tolist() == [[80, 80, 80, 255]] * 2


def test_an_edited_mask_is_prepared_again(panoptic_config, tmp_path):
  make(tmp_path / 'coco', [{'id': 517, 'category_id': 92}])
  layouts.examples(panoptic_config)
  mask = tmp_path / 'coco/annotations/panoptic_val2017/x.png'
  colors = np.asarray(Image.open(mask)).copy()
  colors[0] = 0
  Image.fromarray(colors).save(mask)
  (got,) = layouts.examples(panoptic_config)
  assert got['label'].tolist() == [[255] * 4, [80, 80, 80, 255]]


def test_errors_name_what_does_not_match(panoptic_config, tmp_path):
  make(tmp_path / 'coco', [{'id': 518, 'category_id': 92}])
  with pytest.raises(ValueError, match=r'x\.png: segment 517 is not in the'):
    layouts.examples(panoptic_config)
  (tmp_path / 'coco/annotations/panoptic_val2017/x.png').unlink()
  with pytest.raises(ValueError, match=r'x\.png: no such file, but .*json'):
    layouts.examples(panoptic_config)


@pytest.mark.parametrize('count', [0, 2])
def test_each_image_must_have_one_annotation(panoptic_config, tmp_path, count):
  make(tmp_path / 'coco', [], count)
  with pytest.raises(ValueError, match=f'image 1 has {count} annotations'):
    layouts.examples(panoptic_config)


def test_missing_data_says_what_to_fetch(panoptic_config, tmp_path):
  make(tmp_path / 'coco', [])
  folder = tmp_path / 'coco/annotations/panoptic_val2017'
  folder.rename(folder.with_name('elsewhere'))
  with pytest.raises(
    ValueError, match=r'no such folder of PNG .*panoptic_annotations_trainval'
  ):
    layouts.examples(panoptic_config)


def test_download(panoptic_config, server, monkeypatch, tmp_path):
  """The archive of masks is inside the archive of annotations."""
  base = tmp_path / 'coco'
  make(base, [{'id': 517, 'category_id': 92}])
  masks = base / 'annotations/panoptic_val2017'
  shutil.make_archive(str(masks), 'zip', masks.parent, masks.name)
  shutil.rmtree(masks)
  coco_test.serve(
    server,
    monkeypatch,
    panoptic_annotations_trainval2017=base / 'annotations',
    val2017=base / 'val2017',
  )
  panoptic_config.data.root = ''
  for _ in range(2):
    (got,) = layouts.examples(panoptic_config)
    assert got['label'].tolist() == [[80, 80, 80, 255]] * 2
  assert server.asked == [
    '/annotations/panoptic_annotations_trainval2017.zip',
    '/zips/val2017.zip',
  ]


@pytest.mark.parametrize(
  ('part', 'change', 'message'),
  [
    ('annotations', {'segments_info': 7}, 'segments_info is 7, not a list'),
    ('annotations', {'segments_info': [{'id': 517}]}, 'category_id is missing'),
    ('annotations', {'file_name': None}, 'file_name is None, not a text'),
    (
      'annotations',
      {'file_name': 'a\0'},
      r"'a\\x00' is not the name of a file",
    ),
    (
      'annotations',
      {'file_name': '/etc/passwd'},
      "'/etc/passwd' leads out of the folder of the data; write it relative",
    ),
    ('images', {'height': 2.5}, 'height is 2.5, not a whole number'),
  ],
)
def test_damaged_entries(panoptic_config, tmp_path, part, change, message):
  make(tmp_path / 'coco', [{'id': 517, 'category_id': 92}])
  path = tmp_path / 'coco/annotations/panoptic_val2017.json'
  content = json.loads(path.read_text('utf-8'))
  content[part][0] |= change
  path.write_text(json.dumps(content), 'utf-8')
  with pytest.raises(
    ValueError, match=rf'panoptic_val2017\.json: image x\.jpg: {message}'
  ):
    layouts.examples(panoptic_config)


def test_a_mask_of_another_size_is_refused_before_its_ids_are_sorted(
  panoptic_config, tmp_path, monkeypatch
):
  """A PNG of 77 bytes can hold 66 million pixels."""
  make(tmp_path / 'coco', [{'id': 517, 'category_id': 92}])
  mask = tmp_path / 'coco/annotations/panoptic_val2017/x.png'
  Image.new('RGB', (4, 300)).save(mask)
  monkeypatch.setattr(np, 'unique', None)
  with pytest.raises(
    ValueError, match=r'x\.png: mask of 4x300 pixels for an image of 4x2'
  ):
    layouts.examples(panoptic_config)
