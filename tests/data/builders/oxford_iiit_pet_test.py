"""Oxford-IIIT Pet, by a fixture in its layout, and its download."""

import numpy as np
from PIL import Image
import pytest

from deeplab.data import downloads
from deeplab.data.builders import oxford_iiit_pet
from tests.data.builders import layouts

TRIMAP = np.array([[2, 2, 3, 1], [2, 3, 1, 1]], np.uint8)
LABEL = [[0, 0, 255, 1], [0, 255, 1, 1]]


def make(images, annotations):
  """Writes two cats of `train`, one of them a GIF, and a dog of `test`."""
  (images / 'images').mkdir(parents=True)
  trimaps = annotations / 'annotations/trimaps'
  trimaps.mkdir(parents=True)
  for stem in ('Abyssinian_1', 'Egyptian_Mau_139', 'pug_2'):
    Image.fromarray(TRIMAP).save(trimaps / f'{stem}.png')
    kind = 'GIF' if 'Mau' in stem else 'JPEG'
    image = Image.new('RGB', (4, 2), (9, 9, 9))
    image.save(images / f'images/{stem}.jpg', format=kind)
  (annotations / 'annotations/trainval.txt').write_text(
    'Abyssinian_1 1 1 1\nEgyptian_Mau_139 6 1 5\n', 'utf-8'
  )
  (annotations / 'annotations/test.txt').write_text('pug_2 25 2 18\n', 'utf-8')


@pytest.fixture
def pet_config(config, tmp_path):
  config.data.name = 'oxford_iiit_pet'
  config.data.root = str(tmp_path / 'pet')
  config.data.eval_split = 'train'
  return config


def test_splits(pet_config, tmp_path):
  make(tmp_path / 'pet', tmp_path / 'pet')
  got = layouts.examples(pet_config)
  layouts.check_metadata(pet_config, got)
  assert [e['name'] for e in got] == ['Abyssinian_1', 'Egyptian_Mau_139']
  for example in got:
    assert example['label'].tolist() == LABEL
    assert example['image'].tolist() == np.full((2, 4, 3), 9).tolist()
  pet_config.data.eval_split = 'test'
  assert [e['name'] for e in layouts.examples(pet_config)] == ['pug_2']


def test_download(pet_config, tmp_path, monkeypatch):
  make(tmp_path / 'a', tmp_path / 'b')

  def fetch(self, urls):
    base = 'https://thor.robots.ox.ac.uk/~vgg/data/pets/'
    assert urls == {
      'images': f'{base}images.tar.gz',
      'annotations': f'{base}annotations.tar.gz',
    }
    return {'images': tmp_path / 'a', 'annotations': tmp_path / 'b'}

  monkeypatch.setattr(downloads, '_probe', lambda url: None)
  monkeypatch.setattr(
    'tensorflow_datasets.download.DownloadManager.download_and_extract', fetch
  )
  pet_config.data.root = ''
  assert len(layouts.examples(pet_config)) == 2


def test_no_network_says_what_to_fetch(pet_config, monkeypatch):
  def refuse(request, timeout):
    assert request.full_url.startswith(oxford_iiit_pet.URL)
    raise ConnectionError('no route')

  monkeypatch.setattr('urllib.request.urlopen', refuse)
  pet_config.data.root = ''
  with pytest.raises(
    ValueError, match=r'Pet could not be downloaded \(no route\): fetch https'
  ):
    layouts.examples(pet_config)


def test_what_is_missing_is_named(pet_config, tmp_path):
  with pytest.raises(ValueError, match=r'trainval\.txt: no such file: fetch'):
    layouts.examples(pet_config)
  make(tmp_path / 'pet', tmp_path / 'pet')
  (tmp_path / 'pet/images/Abyssinian_1.jpg').unlink()
  with pytest.raises(
    ValueError, match=r'Abyssinian_1\.jpg: no such file, but trainval\.txt'
  ):
    layouts.examples(pet_config)
  pet_config.data.eval_split = 'val'
  with pytest.raises(ValueError, match='its splits are train, test'):
    layouts.examples(pet_config)
