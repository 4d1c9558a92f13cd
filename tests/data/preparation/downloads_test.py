"""Data sets that download their archives, from a server on this machine.

oxford_iiit_pet_test has what can go wrong.
"""

import io
import shutil
import tarfile
import types
from typing import Any
import zipfile

import numpy as np
import pytest
import scipy.io

from deeplab.data.builders import ade20k
from deeplab.data.builders import loveda
from deeplab.data.builders import pascal_context
from deeplab.data.preparation import downloads
from tests.data.builders import layouts


def write_ade20k(base):
  root = base / 'one/ADEChallengeData2016'
  layouts.save(root / 'images/validation/a.jpg', layouts.picture(0, 4, 6))
  mask = np.full((4, 6), 3, np.uint8)
  layouts.save(root / 'annotations/validation/a.png', mask)


def write_loveda(base):
  scenes = base / 'one/Val'
  for scene in ('Rural', 'Urban'):
    (scenes / scene / 'images_png').mkdir(parents=True)
  image = scenes / 'Urban/images_png/a.png'
  layouts.save(image, layouts.picture(0, 4, 6))
  layouts.save(scenes / 'Rural/images_png/b.png', layouts.picture(1, 4, 6))
  for name in ('Urban/masks_png/a.png', 'Rural/masks_png/b.png'):
    layouts.save(scenes / name, np.full((4, 6), 3, np.uint8))


def write_pascal_context(base):
  voc = base / 'one/VOCdevkit/VOC2010'
  (voc / 'ImageSets/Main').mkdir(parents=True)
  (voc / 'ImageSets/Main/val.txt').write_text('a\n', 'utf-8')
  layouts.save(voc / 'JPEGImages/a.jpg', layouts.picture(0, 4, 6))
  (base / 'two/trainval').mkdir(parents=True)
  label = {'LabelMap': np.full((4, 6), 9, np.uint16)}
  scipy.io.savemat(base / 'two/trainval/a.mat', label)


URLS = {
  'ade20k': [
    'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip'
  ],
  'loveda': ['https://zenodo.org/records/5706578/files/Val.zip'],
  'pascal_context60': [
    'http://host.robots.ox.ac.uk/pascal/VOC/voc2010/'
    'VOCtrainval_03-May-2010.tar',
    'https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz',
  ],
}
WRITERS = {
  'ade20k': write_ade20k,
  'loveda': write_loveda,
  'pascal_context60': write_pascal_context,
}
KINDS = {'zip': 'zip', 'tar': 'tar', 'gz': 'gztar'}


def archive(server, name, members):
  """Serves an archive of texts by their paths; returns its address."""
  path = server.folder / name
  if path.suffix == '.zip':
    with zipfile.ZipFile(path, 'w') as made:
      for member, text in members.items():
        made.writestr(member, text)
  else:
    mode: Any = 'w:gz' if path.suffix == '.gz' else 'w'
    with tarfile.open(path, mode) as made:
      for member, text in members.items():
        header = tarfile.TarInfo(member)
        header.size = len(text)
        made.addfile(header, io.BytesIO(text.encode()))
  return f'{server.url}/{name}'


def unpack(tmp_path, url):
  manager = types.SimpleNamespace(download_dir=str(tmp_path / 'downloads'))
  return downloads.download_and_unpack(manager, [url], 'names', 'fetch it')


@pytest.mark.parametrize('name', ['a.zip', 'a.tar', 'a.tar.gz'])
def test_archives_of_which_files_are_gone_are_downloaded_again(
  tmp_path, server, name
):
  url = archive(server, name, {'x/a.txt': 'one', 'x/b.txt': 'two'})
  base = unpack(tmp_path, url)
  unpack(tmp_path, url)
  assert len(server.asked) == 1
  (base / 'x/a.txt').unlink()
  unpack(tmp_path, url)
  assert (base / 'x/a.txt').read_text() == 'one'
  (base / 'x/b.txt').write_text('')
  unpack(tmp_path, url)
  assert (base / 'x/b.txt').read_text() == 'two'
  assert len(server.asked) == 3
  for damaged in ('', '{', '[]', '{"x/a.txt": null}', '3'):
    (base / f'.{name}.done').write_text(damaged)
    unpack(tmp_path, url)
  assert len(server.asked) == 8


@pytest.mark.parametrize(
  ('name', 'damage', 'reason'),
  [
    ('a.zip', lambda data: b'', 'the answer is empty'),
    ('a.zip', lambda data: data[:-30], '.*not a zip file'),
    ('a.zip', lambda data: b'PK\5\6' + bytes(18), 'the archive is empty'),
    ('a.tar', lambda data: bytes(10240), 'the archive is empty'),
    ('a.tar', lambda data: data[:1024], 'the archive is cut off'),
    ('a.tar', lambda data: data[:1536], 'unexpected end of data'),
    ('a.tar', lambda data: data[:-9000], 'the archive is cut off'),
    ('a.tar', lambda data: b'<html>', '.*not a compressed or uncompressed tar'),
    ('a.tar.gz', lambda data: data[:60], 'Compressed file ended'),
    ('a.tar.gz', lambda data: data[:-8], 'Compressed file ended'),
    ('a.tar.gz', lambda data: data[:-8] + bytes(8), 'CRC check failed'),
    ('a.tar.gz', lambda data: data + b'<html>', 'Not a gzipped file'),
  ],
)
def test_what_is_no_whole_archive_is_not_kept(
  tmp_path, server, name, damage, reason
):
  url = archive(server, name, {'x/a.txt': 'one' * 150, 'x/b.txt': 'two'})
  data = (server.folder / name).read_bytes()
  (server.folder / name).write_bytes(damage(data))
  with pytest.raises(
    ValueError, match=rf'^names could not be .*{name}: {reason}.*: fetch it$'
  ):
    unpack(tmp_path, url)
  kept = [path.name for path in (tmp_path / 'downloads/names').iterdir()]
  assert kept == ['.lock']
  (server.folder / name).write_bytes(data)
  assert (unpack(tmp_path, url) / 'x/b.txt').read_text() == 'two'


@pytest.fixture(params=URLS)
def name(request, config, server, tmp_path, monkeypatch):
  """Serves the archives of a data set; returns its name."""
  WRITERS[request.param](tmp_path / 'content')
  folders = sorted((tmp_path / 'content').iterdir())
  for folder, url in zip(folders, URLS[request.param], strict=True):
    file = url.rsplit('/', 1)[1]
    kind = KINDS[file.rsplit('.', 1)[1]]
    made = shutil.make_archive(str(tmp_path / folder.name), kind, folder)
    shutil.move(made, server.folder / file)
  local = [f'{server.url}/{u.rsplit("/", 1)[1]}' for u in URLS[request.param]]
  if request.param == 'ade20k':
    assert URLS['ade20k'] == [ade20k.URL]
    monkeypatch.setattr(ade20k, 'URL', local[0])
  elif request.param == 'loveda':
    assert [f'{loveda.URL}/Val.zip'] == URLS['loveda']
    monkeypatch.setattr(loveda, 'URL', server.url)
  else:
    assert list(pascal_context.URLS) == URLS['pascal_context60']
    monkeypatch.setattr(pascal_context, 'URLS', tuple(local))
  layouts.point(config, request.param, '')
  return request.param


def test_archives_are_downloaded_and_prepared(name, config, server):
  got = layouts.examples(config)
  assert [e['name'] for e in got] == (['b', 'a'] if name == 'loveda' else ['a'])
  for example in got:
    assert layouts.counts(example['label']) == {2: 24}
  layouts.check_metadata(config, got)
  asked = [url.rsplit('/', 1)[1] for url in URLS[name]]
  assert server.asked == [f'/{file}' for file in asked]
  layouts.examples(config)
  assert len(server.asked) == len(asked)


def test_without_a_network_the_error_says_what_to_fetch(name, config, server):
  server.shutdown()
  server.server_close()
  with pytest.raises(
    ValueError,
    match=rf'^{name.removesuffix("60")} could not be downloaded \(http.*'
    r'Connection refused.*\): fetch .* and give --config\.data\.root=FOLDER$',
  ):
    layouts.examples(config)


def test_splits_are_checked_before_downloads(name, config, server):
  config.data.eval_split = 'tests'
  with pytest.raises(ValueError, match=f"{name} has no split 'tests'; its"):
    layouts.examples(config)
  assert server.asked == []
