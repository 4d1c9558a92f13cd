"""All errors of a split are collected, for each kind of data set."""

import json
import pathlib

import numpy as np
from PIL import Image
import pytest

from deeplab.data import datasets
from deeplab.data.preparation import errors
from deeplab.doctor import diagnosis
from deeplab.doctor import example_loader
from deeplab.doctor import findings
from deeplab.doctor import scan
from tests.data.builders import layouts

# a and e are sound; the image of b is missing, that of c is cut off, the
# annotation of d is broken, and the image of f is missing as well.
STEMS = 'abcdef'
SQUARE = [0, 0, 4, 0, 4, 4, 0, 4]
CLASSES = ('background', 'road', 'car')


def write_images(folder, suffix='.png'):
  folder.mkdir(parents=True, exist_ok=True)
  for stem in STEMS:
    path = folder / f'{stem}{suffix}'
    if stem not in 'bf':
      Image.fromarray(layouts.picture(ord(stem), 6, 8)).save(path)
    if stem == 'c':
      path.write_bytes(path.read_bytes()[:-30])


def write_masks(folder, value=1):
  for stem in STEMS:
    mask = np.full((6, 8), 99 if stem == 'd' else value, np.uint8)
    layouts.save(folder / f'{stem}.png', mask)


def coco_json(path, prefix=''):
  content = {
    'images': [
      {'id': i, 'file_name': f'{prefix}{stem}.png', 'height': 6, 'width': 8}
      for i, stem in enumerate(STEMS)
    ],
    'annotations': [
      {
        'id': 70 + i,
        'image_id': i,
        'category_id': 1,
        'area': 1200,
        'segmentation': [SQUARE[: 7 if stem == 'd' else None]],
      }
      for i, stem in enumerate(STEMS)
    ],
    'categories': [{'id': 1, 'name': 'road'}],
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content), 'utf-8')


def make_coco_json(root, data):
  coco_json(root / 'val.json')
  write_images(root / 'images')


def make_cvat(root, data):
  images = ''.join(
    f'<image name="{stem}.png" width="8" height="6"><{shape} label="road" '
    'points="0,0;4,0;4,4;0,4"/></image>'
    for stem in STEMS
    for shape in ['polyline' if stem == 'd' else 'polygon']
  )
  root.mkdir()
  (root / 'val.xml').write_text(f'<annotations>{images}</annotations>')
  write_images(root / 'images')


def make_labelme(root, data):
  write_images(root / 'val')
  for stem in STEMS:
    kind = 'line' if stem == 'd' else 'polygon'
    points = list(zip(SQUARE[::2], SQUARE[1::2], strict=True))
    shape = {'label': 'road', 'points': points, 'shape_type': kind}
    content = {'shapes': [shape], 'imageHeight': 6, 'imageWidth': 8}
    (root / f'val/{stem}.json').write_text(json.dumps(content), 'utf-8')


def make_voc_export(root, data):
  write_images(root / 'JPEGImages')
  write_masks(root / 'SegmentationClass')
  listing = root / 'ImageSets/Segmentation/val.txt'
  listing.parent.mkdir(parents=True)
  listing.write_text('\n'.join(STEMS))


def make_pool(root, data):
  write_images(root / 'all/images')
  write_masks(root / 'all/labels')
  (root / 'val.txt').write_text('\n'.join('acde'))
  data.pool = 'all'


def make_voc(root, data):
  data.name = 'voc'
  make_voc_export(root / 'VOC2012', data)
  for path in (root / 'VOC2012/JPEGImages').iterdir():
    path.rename(path.with_suffix('.jpg'))


def make_coco(root, data):
  data.name = 'cocoseg21'
  coco_json(root / 'annotations/instances_val2017.json')
  write_images(root / 'val2017')


def make_pet(root, data):
  data.name, data.eval_split = 'oxford_iiit_pet', 'test'
  write_images(root / 'images', '.jpg')
  write_masks(root / 'annotations/trimaps')
  (root / 'annotations/test.txt').write_text('\n'.join(STEMS))


def make_pascal_context(root, data):
  data.name = 'pascal_context60'
  write_images(root / 'JPEGImages', '.jpg')
  write_masks(root / 'SegmentationClassContext')
  listing = root / 'ImageSets/SegmentationContext/val.txt'
  listing.parent.mkdir(parents=True)
  listing.write_text('\n'.join(STEMS))


def make_panoptic(root, data):
  data.name = 'coco_panoptic'
  path = root / 'annotations/panoptic_val2017.json'
  coco_json(path)
  content = json.loads(path.read_text('utf-8'))
  for entry, annotation in zip(
    content['images'], content['annotations'], strict=True
  ):
    broken = entry['file_name'] == 'd.png'
    annotation['file_name'] = entry['file_name']
    annotation['segments_info'] = [{'id': 9 + broken, 'category_id': 1}]
    mask = np.full((6, 8, 3), (9, 0, 0), np.uint8)
    layouts.save(path.with_suffix('') / entry['file_name'], mask)
  path.write_text(json.dumps(content), 'utf-8')
  write_images(root / 'val2017')


def make_isaid(root, data):
  """Writes iSAID, whose file names begin with P."""
  data.name = 'isaid'
  write_images(root / 'val/images')
  for path in (root / 'val/images').iterdir():
    path.rename(path.with_name(f'P{path.name}'))
  for stem in STEMS:
    color = (9, 9, 9) if stem == 'd' else (0, 0, 63)
    mask = np.full((6, 8, 3), color, np.uint8)
    name = f'P{stem}_instance_color_RGB.png'
    layouts.save(root / 'val/masks' / name, mask)


MAKERS = {
  'coco_json': (make_coco_json, 'annotation 73 of d.png: broken polygon'),
  'cvat': (make_cvat, 'image d.png: polyline (road): a polyline has no area'),
  'labelme': (make_labelme, 'd.json: shape 1: a line has no area'),
  'voc_export': (make_voc_export, 'd.png: label value 99'),
  'voc': (make_voc, 'd.png: label value 99'),
  'coco': (make_coco, 'annotation 73 of image 3: broken polygon'),
  'pet': (make_pet, 'd.png: label value 99'),
  'pascal_context': (make_pascal_context, 'd.png: label value 99'),
  'panoptic': (make_panoptic, 'd.png: segment 9 is not in the JSON file'),
  'isaid': (make_isaid, 'Pd_instance_color_RGB.png: color (9, 9, 9)'),
}


@pytest.fixture(params=MAKERS)
def broken_config(request, config):
  """Returns a config whose split `val` has four errors, and one message."""
  config.data.class_names = CLASSES
  config.data.ignore_label = 255
  make, broken = MAKERS[request.param]
  make(pathlib.Path(config.data.root), config.data)
  return config, broken


def test_all_errors_are_collected(broken_config):
  config, broken = broken_config
  split = config.data.eval_split
  count, found = example_loader.list_examples(
    datasets.Dataset(config.data), split
  )
  assert count == 0
  assert [fault.kind for fault in found] == ['files'] * 4
  texts = [fault.text for fault in found]
  # What is missing is found before files are read.
  for text, stem in zip(texts, 'bfcd', strict=True):
    told = (broken,) if stem == 'd' else (f'{stem}.', f'P{stem}_')
    assert any(part in text for part in told)
  assert 'damaged or not an image' in texts[2]
  builder = datasets.BUILDERS[config.data.name]
  with errors.collect_errors():
    assert not builder(config.data, split).data_path.exists()
  with pytest.raises(ValueError) as raised:
    datasets.Dataset(config.data).prepare(split)
  assert str(raised.value) == texts[0]


def test_good_data_is_prepared_while_errors_are_collected(
  config, root, tmp_path
):
  config.data.pool, config.data.eval_split = 'train', 'val'
  dataset = datasets.Dataset(config.data)
  assert example_loader.list_examples(dataset, 'train')[1] == []
  assert dataset.num_examples('train') > 0


def test_the_doctor_reports_an_error_in_a_pool_once(config):
  """The error belongs to both splits."""
  config.data.class_names = CLASSES
  root = pathlib.Path(config.data.root)
  make_pool(root, config.data)
  (root / 'train.txt').write_text('e')
  dataset = datasets.Dataset(config.data)
  listed, found = {}, []
  for split in ('train', 'val'):
    listed[split], more = example_loader.list_examples(dataset, split)
    found += more
  scans = scan.scan_splits(listed, dataset, 1)
  result = diagnosis.diagnose(scans, found, config, dataset)
  assert not result.can_train
  stems = {
    finding.kind: [pathlib.Path(t.split(':')[0]).stem for t in finding.details]
    for finding in result.findings
    if finding.level == findings.ERROR
  }
  files, unreadable, value = (
    stems[kind] for kind in ('files', 'unreadable', 'value')
  )
  assert (files, unreadable, value) == (['b', 'f'], ['c'], ['d'])
  assert result.suggestions[0][0] == '--config.data.num_classes=100'
