"""The COCO builder with VOC's classes: genuine samples, missing files."""

import json
import shutil

from PIL import Image
import pytest

from deeplab.data.builders import coco
from tests.data.builders import layouts

# Pixels by id of the genuine samples, counted by a NumPy drawing of the JSON
# files that shares no code with pycocotools. 87038, 296649 and 463730 have
# crowds.
TRAIN = {
  '000000017627': {0: 254469, 6: 22669, 7: 28176, 15: 1338, 255: 548},
  '000000037777': {0: 73206, 9: 1441, 11: 6118, 16: 85, 255: 110},
  '000000087038': {0: 290156, 2: 1331, 15: 15431, 255: 282},
  '000000184321': {0: 297863, 19: 9337},
  '000000296649': {
    0: 216526,
    2: 787,
    3: 32,
    7: 10429,
    14: 14405,
    15: 29715,
    255: 1386,
  },
  '000000463730': {
    0: 195455,
    6: 45922,
    7: 13897,
    14: 630,
    15: 13913,
    255: 3463,
  },
}
VAL = {
  '000000444010': {0: 37303, 9: 6859, 11: 102091, 15: 153547, 255: 7400},
  '000000471345': {0: 14151, 11: 293049},
  '000000475546': {0: 140853, 15: 46596, 255: 51},
  '000000516168': {
    0: 172041,
    5: 6788,
    9: 9304,
    11: 100326,
    15: 18589,
    255: 152,
  },
  '000000547503': {0: 125627, 5: 1423, 15: 60393, 255: 57},
  '000000565004': {0: 195783, 5: 20068, 11: 34527, 15: 22515, 255: 387},
}
SQUARE = [[0, 0, 40, 0, 40, 30, 0, 30]]


@pytest.fixture
def coco_config(config):
  config.data.name = 'cocoseg21'
  return config


def test_val(shared, coco_config):
  coco_config.data.root = str(shared / 'samples/coco')
  got = layouts.examples(coco_config)
  layouts.check_metadata(coco_config, got)
  assert {e['name']: layouts.counts(e['label']) for e in got} == VAL


def test_ti_selects_images_in_both_splits(shared, coco_config):
  coco_config.data.root = str(shared / 'samples/coco')
  coco_config.data.name = 'cocoseg21_ti'
  got = {}
  for split in ('train', 'val'):
    coco_config.data.eval_split = split
    examples = layouts.examples(coco_config)
    got[split] = {e['name']: layouts.counts(e['label']) for e in examples}
  assert len(got['train']) == 23
  assert {name: got['train'][name] for name in TRAIN} == TRAIN
  assert got['val'] == VAL  # each shows more than 1,000 pixels


@pytest.mark.parametrize(
  ('name', 'split', 'expected'),
  [
    ('cocoseg21', 'train', ['b']),
    ('cocoseg21', 'val', ['a', 'b', 'c']),
    ('cocoseg21_ti', 'train', ['b']),
    ('cocoseg21_ti', 'val', ['b']),
  ],
)
def test_images_with_small_instances_are_left_out(
  coco_config, tmp_path, name, split, expected
):
  """Image a shows 1,000 pixels, b one more, and c none."""
  shown = [
    annotation(1, SQUARE, image=7, area=1000.0),
    annotation(2, SQUARE, image=8, area=1001.0),
  ]
  path = make(tmp_path / 'coco', shown, split)
  content = json.loads(path.read_text('utf-8'))
  for i, stem in ((8, 'b'), (9, 'c')):
    entry = content['images'][0] | {'id': i, 'file_name': f'{stem}.jpg'}
    content['images'].append(entry)
    Image.new('RGB', (50, 40)).save(path.parents[1] / f'{split}2017/{stem}.jpg')
  path.write_text(json.dumps(content), 'utf-8')
  layouts.point(coco_config, name, tmp_path / 'coco', split)
  assert [e['name'] for e in layouts.examples(coco_config)] == expected


def test_train(shared, coco_config):
  coco_config.data.root = str(shared / 'samples/coco')
  coco_config.data.eval_split = 'train'
  got = layouts.examples(coco_config)
  # 32 images; 8 show none of the classes, and 522713 shows 767 pixels of them.
  assert len(got) == 23
  labels = {e['name']: layouts.counts(e['label']) for e in got}
  assert '000000522713' not in labels
  assert {name: labels[name] for name in TRAIN} == TRAIN


def annotation(i, segmentation, category=1, image=7, area=1200.0):
  return {
    'id': i,
    'image_id': image,
    'category_id': category,
    'segmentation': segmentation,
    'area': area,
    'iscrowd': int(isinstance(segmentation, dict)),
  }


def make(root, annotations, split='val'):
  """Writes COCO with one image of 50x40 pixels, id 7, and annotations."""
  (root / 'annotations').mkdir(parents=True)
  (root / f'{split}2017').mkdir()
  Image.new('RGB', (50, 40)).save(root / f'{split}2017/a.jpg')
  content = {
    'images': [{'id': 7, 'file_name': 'a.jpg', 'height': 40, 'width': 50}],
    'annotations': annotations,
    'categories': [{'id': 1, 'name': 'person'}, {'id': 90, 'name': 'brush'}],
  }
  path = root / f'annotations/instances_{split}2017.json'
  path.write_text(json.dumps(content), 'utf-8')
  return path


def test_other_classes_are_background(coco_config, tmp_path):
  make(tmp_path / 'coco', [annotation(1, SQUARE, category=90)])
  coco_config.data.root = str(tmp_path / 'coco')
  (got,) = layouts.examples(coco_config)
  assert layouts.counts(got['label']) == {0: 2000}


def test_an_edited_image_is_prepared_again(coco_config, tmp_path):
  make(tmp_path / 'coco', [annotation(1, SQUARE)])
  coco_config.data.root = str(tmp_path / 'coco')
  layouts.examples(coco_config)
  white = Image.new('RGB', (50, 40), (255, 255, 255))
  white.save(tmp_path / 'coco/val2017/a.jpg')
  (got,) = layouts.examples(coco_config)
  assert got['image'].min() == 255


def test_small_instances_add_up(coco_config, tmp_path):
  pair = [annotation(i, SQUARE, area=area) for i, area in ((1, 500), (2, 501))]
  make(tmp_path / 'kept', pair, 'train')
  coco_config.data.root = str(tmp_path / 'kept')
  coco_config.data.eval_split = 'train'
  assert len(layouts.examples(coco_config)) == 1


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda r: (r / 'val2017/a.jpg').unlink(), r'a\.jpg: no such file, but'),
    (
      lambda r: Image.new('RGB', (40, 50)).save(r / 'val2017/a.jpg'),
      r'instances_val2017\.json: mask of 50x40 pixels .* of 40x50',
    ),
    (
      lambda r: (r / 'annotations/instances_val2017.json').write_text('{}'),
      r'val2017\.json: damaged, or not a COCO file .*annotations',
    ),
    (
      lambda r: (r / 'annotations/instances_val2017.json').unlink(),
      r"no such file for split 'val': fetch train2017\.zip",
    ),
    (
      lambda r: (r / 'val2017').rename(r / 'val'),
      r'val2017: no such folder of images: fetch',
    ),
  ],
)
def test_the_error_names_what_is_missing(
  coco_config, tmp_path, damage, message
):
  root = tmp_path / 'coco'
  make(root, [annotation(1, SQUARE)])
  damage(root)
  coco_config.data.root = str(root)
  with pytest.raises(ValueError, match=message):
    layouts.examples(coco_config)


def test_the_error_names_a_broken_polygon(coco_config, tmp_path):
  make(tmp_path / 'coco', [annotation(1, SQUARE), annotation(31, [[1, 2]])])
  coco_config.data.root = str(tmp_path / 'coco')
  with pytest.raises(
    ValueError,
    match=r'val2017\.json: annotation 31 of image 7: broken polygon: 1 points',
  ):
    layouts.examples(coco_config)


def test_splits_are_checked_before_downloads(coco_config, server):
  layouts.point(coco_config, 'cocoseg21', '', 'test')
  with pytest.raises(ValueError, match=r"no split 'test'; its .* train, val"):
    layouts.examples(coco_config)
  assert server.asked == []


def serve(server, monkeypatch, **content):
  """Serves folders as COCO's archives, named by their stems."""
  assert coco.URL == 'http://images.cocodataset.org'
  monkeypatch.setattr(coco, 'URL', server.url)
  for stem, folder in content.items():
    where = 'zips' if stem[:3] in ('tra', 'val') else 'annotations'
    shutil.make_archive(
      str(server.folder / where / stem), 'zip', folder.parent, folder.name
    )


@pytest.mark.parametrize('name', ['cocoseg21', 'cocoseg21_ti'])
def test_download(coco_config, server, monkeypatch, tmp_path, name):
  for split in ('train', 'val'):
    base = tmp_path / split
    make(base, [annotation(1, SQUARE)], split)
    serve(server, monkeypatch, **{f'{split}2017': base / f'{split}2017'})
    monkeypatch.undo()
  source = tmp_path / 'train/annotations'
  shutil.copy(tmp_path / 'val/annotations/instances_val2017.json', source)
  serve(server, monkeypatch, annotations_trainval2017=source)
  for split in ('val', 'train', 'val'):
    layouts.point(coco_config, name, '', split)
    (got,) = layouts.examples(coco_config)
    assert layouts.counts(got['label']) == {0: 800, 15: 1200}
  assert server.asked == [
    '/annotations/annotations_trainval2017.zip',
    '/zips/val2017.zip',
    '/zips/train2017.zip',
  ]


def test_without_a_network_the_error_says_what_to_fetch(
  coco_config, server, monkeypatch
):
  monkeypatch.setattr(coco, 'URL', server.url)
  coco_config.data.root = ''
  with pytest.raises(
    ValueError,
    match=r'^coco could not be downloaded \(http.*annotations_trainval2017\.zip'
    r': .*404.*\): fetch train2017\.zip, val2017\.zip and annotations_trainval'
    r'2017\.zip .* into one FOLDER, and give --config\.data\.root=FOLDER$',
  ):
    layouts.examples(coco_config)
