"""The VOC builder: genuine samples, layouts of SBD, and missing files."""

import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest

from deeplab.data.builders import voc
from tests.data.builders import layouts

# Pixels by id in the genuine masks, counted with PIL.
SAMPLES = {
  '2007_000039': {0: 154539, 20: 30031, 255: 2930},
  '2007_000346': {0: 114172, 5: 14663, 15: 51575, 255: 7090},
  '2011_000003': {0: 122905, 5: 601, 15: 29270, 255: 16224},
  '2011_000006': {0: 91893, 9: 42251, 15: 27437, 18: 10951, 255: 14968},
  '2011_000025': {0: 62682, 6: 105698, 7: 4967, 255: 14153},
}


@pytest.fixture
def voc_config(config):
  config.data.name = 'voc'
  return config


@pytest.mark.parametrize('below', ['', 'VOCdevkit', 'VOCdevkit/VOC2012'])
def test_samples(shared, voc_config, below):
  voc_config.data.root = str(shared / 'samples/voc' / below)
  voc_config.data.eval_split = 'all'
  got = layouts.examples(voc_config)
  assert [example['name'] for example in got] == list(SAMPLES)
  for example in got:
    counts = np.bincount(example['label'].ravel(), minlength=256)
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == SAMPLES[
      example['name']
    ]
    assert example['image'].shape == (*example['label'].shape, 3)
  layouts.check_metadata(voc_config, got)


def test_trainaug_from_sbd(voc_config, tmp_path):
  base = tmp_path / 'download'
  layouts.make_voc(
    base / 'VOCdevkit/VOC2012', 'abcdef', 'abc', train=['a', 'b'], val=['c']
  )
  # c is scored in VOC's val, so it must not be trained on.
  layouts.make_sbd(
    base / 'benchmark_RELEASE/dataset', 'acdef', ['a', 'c', 'd'], ['e', 'f']
  )
  voc_config.data.root = str(base)
  voc_config.data.eval_split = 'trainaug'
  values = {
    example['name']: np.unique(example['label']).tolist()
    for example in layouts.examples(voc_config)
  }
  assert values == {'a': [1], 'b': [1], 'd': [2], 'e': [2], 'f': [2]}


def test_trainaug_from_lists(tmp_path):
  base = tmp_path / 'VOC2012'
  layouts.make_voc(base, 'abcd', 'ab', train=['b', 'a'], val=[], aug=['d', 'c'])
  (base / 'SegmentationClassAug').mkdir()
  for stem in 'abcd':
    Image.new('L', (8, 6), 2).save(base / f'SegmentationClassAug/{stem}.png')
  pairs = voc.find_pairs(base, 'trainaug', None)
  assert [f'{mask.parent.name}/{mask.name}' for _, mask in pairs] == [
    'SegmentationClass/b.png',
    'SegmentationClass/a.png',
    'SegmentationClassAug/d.png',
    'SegmentationClassAug/c.png',
  ]


def test_missing_data_says_what_to_fetch(voc_config, tmp_path):
  voc_config.data.root = str(tmp_path)
  with pytest.raises(
    ValueError,
    match=r'holds no VOC2012/ImageSets/Segmentation: fetch http://host.*tar '
    r'.* unpack into one FOLDER, and give --config\.data\.root=FOLDER',
  ):
    layouts.examples(voc_config)
  layouts.make_voc(tmp_path / 'VOC2012', 'ab', 'a', train=['a', 'b'], empty=[])
  with pytest.raises(ValueError, match=r"'val' \(there are: empty, train\)"):
    layouts.examples(voc_config)
  voc_config.data.eval_split = 'train'
  with pytest.raises(ValueError, match=r'Class/b\.png: no such file, but spl'):
    layouts.examples(voc_config)
  voc_config.data.eval_split = 'empty'
  with pytest.raises(ValueError, match="split 'empty' is empty"):
    layouts.examples(voc_config)


def test_without_a_network_the_error_says_what_to_fetch(
  voc_config, monkeypatch
):
  def refuse(url, timeout):
    assert url == voc.VOC_URL
    raise ConnectionError('no route')

  monkeypatch.setattr('urllib.request.urlopen', refuse)
  voc_config.data.root = ''
  with pytest.raises(
    ValueError,
    match=r'could not be downloaded \(http.*: no route\): fetch http',
  ):
    layouts.examples(voc_config)


def test_download(voc_config, server, monkeypatch, tmp_path):
  layouts.make_voc(
    tmp_path / 'a/VOCdevkit/VOC2012', 'ab', 'a', train=['a'], val=[]
  )
  layouts.make_sbd(tmp_path / 'b/benchmark_RELEASE/dataset', 'b', ['b'], [])
  archive = server.folder / voc.VOC_URL.rsplit('/', 1)[1].removesuffix('.tar')
  shutil.make_archive(str(archive), 'tar', tmp_path / 'a')
  made = shutil.make_archive(str(tmp_path / 'sbd'), 'gztar', tmp_path / 'b')
  pathlib.Path(made).rename(server.folder / 'benchmark.tgz')
  for name in ('VOC_URL', 'SBD_URL'):
    path = getattr(voc, name).rsplit('/', 1)[1]
    monkeypatch.setattr(voc, name, f'{server.url}/{path}')
  voc_config.data.root = ''
  voc_config.data.eval_split = 'trainaug'
  assert [example['name'] for example in layouts.examples(voc_config)] == [
    'a',
    'b',
  ]
  assert server.asked == ['/VOCtrainval_11-May-2012.tar', '/benchmark.tgz']


def test_the_error_names_a_damaged_sbd_file(tmp_path):
  path = tmp_path / 'x.mat'
  path.write_bytes(b'nothing')
  with pytest.raises(
    ValueError, match=r'x\.mat: damaged, or not a mask of SBD'
  ):
    voc.read_mask(path)
