"""The Oxford-IIIT Pet builder: a small copy of its layout, and downloads."""

import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest

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


@pytest.fixture
def served(pet_config, server, tmp_path, monkeypatch):
  """Serves the two archives, and points the builder to the server."""
  base = 'https://thor.robots.ox.ac.uk/~vgg/data/pets'
  names = 'images.tar.gz', 'annotations.tar.gz'
  assert tuple(f'{base}/{n}' for n in names) == oxford_iiit_pet.URLS
  make(tmp_path / 'a', tmp_path / 'b')
  for folder, name in (('a', 'images'), ('b', 'annotations')):
    shutil.make_archive(str(server.folder / name), 'gztar', tmp_path / folder)
  urls = tuple(f'{server.url}/{name}' for name in names)
  monkeypatch.setattr(oxford_iiit_pet, 'URLS', urls)
  pet_config.data.root = ''
  return server


def downloaded(config):
  """Returns the names of the files in the folder for downloads."""
  folder = pathlib.Path(config.data.data_dir) / 'downloads/oxford_iiit_pet'
  return {path.name for path in folder.iterdir()} - {'.lock'}


def test_download(pet_config, served):
  got = layouts.examples(pet_config)
  layouts.check_metadata(pet_config, got)
  assert [e['label'].tolist() for e in got] == [LABEL] * 2
  assert served.asked == ['/images.tar.gz', '/annotations.tar.gz']
  assert downloaded(pet_config) == {
    *('images', '.images.tar.gz.done'),
    *('annotations', '.annotations.tar.gz.done'),
  }
  # Another split, and the same one anew, ask nobody.
  pet_config.data.eval_split = 'test'
  assert [e['name'] for e in layouts.examples(pet_config)] == ['pug_2']
  prepared = pathlib.Path(pet_config.data.data_dir) / 'pet_segmentation'
  shutil.rmtree(prepared)
  assert len(layouts.examples(pet_config)) == 1
  assert len(served.asked) == 2


def damage(server, kind):
  path = server.folder / 'annotations.tar.gz'
  if kind == 'cut off':
    server.cut.add('/annotations.tar.gz')
  elif kind == 'damaged':
    path.write_bytes(path.read_bytes()[:-200])
  elif kind == 'a page':
    path.write_text('<html>Moved.</html>')
  else:
    path.rename(path.with_suffix('.away'))


@pytest.mark.parametrize(
  ('kind', 'message'),
  [
    ('cut off', r'received \d+ of \d+ bytes'),
    ('damaged', '(Compressed file ended|unexpected end of data)'),
    ('a page', '.*not a compressed or uncompressed tar file'),
    ('missing', 'HTTP Error 404: File not found'),
  ],
)
def test_incomplete_downloads_are_deleted(pet_config, served, kind, message):
  archive = served.folder / 'annotations.tar.gz'
  data = archive.read_bytes()
  damage(served, kind)
  with pytest.raises(
    ValueError,
    match=rf'^oxford_iiit_pet could not be downloaded \({served.url}/'
    rf'annotations\.tar\.gz: {message}.*\): fetch https://thor.* unpack into '
    r'one FOLDER, and give --config\.data\.root=FOLDER$',
  ):
    layouts.examples(pet_config)
  assert downloaded(pet_config) == {'images', '.images.tar.gz.done'}
  archive.write_bytes(data)
  served.cut.clear()
  assert len(layouts.examples(pet_config)) == 2
  assert served.asked.count('/images.tar.gz') == 1


def test_without_a_network_the_error_says_what_to_fetch(pet_config, served):
  served.shutdown()
  served.server_close()
  with pytest.raises(
    ValueError,
    match=r'^oxford_iiit_pet could not be downloaded \(http.*Connection refused'
    r'.*\): fetch https://thor\S*/images\.tar\.gz and https://thor\S*/annota'
    r'tions\.tar\.gz, unpack into one FOLDER, and give --config',
  ):
    layouts.examples(pet_config)


def test_the_error_names_what_is_missing(pet_config, tmp_path):
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
