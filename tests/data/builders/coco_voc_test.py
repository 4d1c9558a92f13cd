"""COCO and VOC combined: selection of images, and their labels."""

import collections
import shutil
import threading

import numpy as np
from PIL import Image
import pytest

from deeplab.data.builders import coco
from deeplab.data.builders import coco_voc
from deeplab.data.builders import voc
from deeplab.data.preparation import records
from tests.data.builders import coco_test
from tests.data.builders import layouts

# Of COCO: a person of 40x40, and a bicycle of 20x30 drawn over it.
PERSON = coco_test.annotation(1, [[0, 0, 40, 0, 40, 40, 0, 40]], area=1600)
BICYCLE = coco_test.annotation(2, [[30, 0, 50, 0, 50, 30, 30, 30]], 2, area=600)
BRUSH = coco_test.annotation(3, [[0, 0, 50, 0, 50, 40, 0, 40]], 90)


def make_root(base, annotations):
  """Writes COCO with one image, and VOC with two a split, 60x40 pixels.

  p (train) and r (val) are persons under a row of void; q and s bicycles.
  """
  coco_test.make(base, annotations, 'train')
  voc = base / 'VOCdevkit/VOC2012'
  layouts.make_voc(voc, 'pqrs', '', train='pq', val='rs', trainaug='pq')
  for stem in 'pqrs':
    Image.new('RGB', (60, 40)).save(voc / f'JPEGImages/{stem}.jpg')
    mask = np.full((40, 60), 15 if stem in 'pr' else 2, np.uint8)
    mask[0] = 255
    Image.fromarray(mask).save(voc / f'SegmentationClass/{stem}.png')
  return base


@pytest.fixture
def root(tmp_path):
  return make_root(tmp_path / 'both', [PERSON, BICYCLE, BRUSH])


def labels(config, root, name, split):
  config.data.name, config.data.root = name, str(root)
  config.data.eval_split = split
  got = layouts.examples(config)
  return {e['name']: layouts.counts(e['label']) for e in got}


def test_21_classes(config, root):
  assert labels(config, root, 'coco_voc21', 'train') == {
    'p': {0: 60, 15: 2340},
    'q': {0: 60, 2: 2340},
    'a': {0: 100, 2: 600, 15: 1300},
  }
  assert labels(config, root, 'coco_voc21', 'val') == {
    'r': {0: 60, 15: 2340},
    's': {0: 60, 2: 2340},
  }


def test_one_instance_must_be_large(config, tmp_path):
  """torchvision's rule, which sums areas, would take this image."""
  pair = [PERSON | {'area': 1000}, BICYCLE]
  root = make_root(tmp_path / 'both', pair)
  assert set(labels(config, root, 'coco_voc21', 'train')) == {'p', 'q'}


def test_persons(config, root, monkeypatch):
  """Image r of `val` shows a person; p is moved from `train`."""
  monkeypatch.setattr(coco_voc, 'VAL_SIZE', 2)
  assert labels(config, root, 'coco_voc_person', 'val') == {
    'r': {0: 60, 1: 2340},
    'p': {0: 60, 1: 2340},
  }
  assert labels(config, root, 'coco_voc_person', 'train') == {
    'a': {0: 700, 1: 1300}
  }


def read_counts(monkeypatch):
  """Counts how often each mask file is read or rasterized."""
  counts = collections.Counter()
  lock = threading.Lock()

  def counted(read):
    def apply(path, **options):
      with lock:
        counts[path.stem] += 1
      return read(path, **options)

    return apply

  monkeypatch.setattr(voc, 'read_mask', counted(voc.read_mask))
  monkeypatch.setattr(coco, 'draw_voc_label', counted(coco.draw_voc_label))
  return counts


def test_no_polygon_is_drawn_twice(config, root, monkeypatch):
  monkeypatch.setattr(coco_voc, 'VAL_SIZE', 2)
  monkeypatch.setattr(records, 'THREADS', 1)  # which read two ahead
  counts = read_counts(monkeypatch)
  assert set(labels(config, root, 'coco_voc_person', 'train')) == {'a'}
  assert counts['instances_train2017'] == 1
  counts.clear()
  assert len(labels(config, root, 'coco_voc_person', 'val')) == 2
  assert counts['instances_train2017'] == 0
  assert counts['r'] == counts['p'] == 2


def test_a_small_train_gives_all_its_persons_to_val(config, root):
  """`train` has fewer persons than `val` needs."""
  got = labels(config, root, 'coco_voc_person', 'val')
  assert list(got) == ['r', 'p', 'a']


def test_images_without_persons_are_not_decoded(config, root, monkeypatch):
  monkeypatch.setattr(coco_voc, 'VAL_SIZE', 1)
  jpegs = root / 'VOCdevkit/VOC2012/JPEGImages'
  (jpegs / 'q.jpg').write_bytes(b'nothing')
  got = labels(config, root, 'coco_voc_person', 'train')
  assert list(got) == ['p', 'a']
  masks = root / 'VOCdevkit/VOC2012/SegmentationClass'
  (masks / 's.png').write_bytes(b'nothing')
  with pytest.raises(ValueError, match=r's\.png: damaged or not an image'):
    labels(config, root, 'coco_voc_person', 'val')


@pytest.mark.parametrize('name', ['coco_voc21', 'coco_voc_person'])
def test_download(config, server, monkeypatch, tmp_path, name):
  monkeypatch.setattr(coco_voc, 'VAL_SIZE', 1)
  base = make_root(tmp_path / 'both', [PERSON, BICYCLE, BRUSH])
  coco_test.serve(
    server,
    monkeypatch,
    annotations_trainval2017=base / 'annotations',
    train2017=base / 'train2017',
  )
  devkit = base / 'VOCdevkit'
  shutil.make_archive(str(server.folder / 'voc'), 'tar', base, devkit.name)
  layouts.make_sbd(tmp_path / 'sbd/benchmark_RELEASE/dataset', '', '', '')
  shutil.make_archive(str(server.folder / 'sbd'), 'gztar', tmp_path / 'sbd')
  monkeypatch.setattr(voc, 'VOC_URL', f'{server.url}/voc.tar')
  monkeypatch.setattr(voc, 'SBD_URL', f'{server.url}/sbd.tar.gz')
  got = labels(config, '', name, 'train')
  assert list(got) == (['p', 'q', 'a'] if name == 'coco_voc21' else ['p', 'a'])
  got = labels(config, '', name, 'val')
  assert list(got) == (['r', 's'] if name == 'coco_voc21' else ['r'])
  assert server.asked == [
    '/annotations/annotations_trainval2017.zip',
    '/zips/train2017.zip',
    '/voc.tar',
    '/sbd.tar.gz',
  ]


def test_the_error_names_what_is_missing(config, root):
  with pytest.raises(ValueError, match="has no split 'test'; its splits are"):
    labels(config, root, 'coco_voc21', 'test')
  (root / 'VOCdevkit').rename(root / 'voc')
  with pytest.raises(ValueError, match='holds no VOC2012/ImageSets'):
    labels(config, root, 'coco_voc21', 'train')
  (root / 'train2017').rename(root / 'train')
  with pytest.raises(
    ValueError, match=r'no such folder of images: .*benchmark\.tgz as well'
  ):
    labels(config, root, 'coco_voc21', 'train')


def test_genuine_images(shared, config, tmp_path):
  """COCO's samples; expected counts from a NumPy drawing of the JSON file."""
  root = make_root(tmp_path / 'both', [])
  for name in ('annotations', 'train2017'):
    (root / name).rename(root / f'{name}_made')
  coco = shared / 'samples/coco'
  (root / 'annotations').symlink_to(coco / 'annotations')
  (root / 'train2017').symlink_to(coco / 'images/train2017')
  got = labels(config, root, 'coco_voc21', 'train')
  assert len(got) == 2 + 23
  assert got['000000143931'] == {0: 81021, 6: 220376, 15: 5803}
  assert got['000000491497'] == {0: 140743, 9: 688, 18: 29751, 20: 16318}
  assert got['000000463730'] == {
    0: 195455,
    6: 45939,
    7: 13951,
    14: 650,
    15: 17285,
  }
