"""Searching folders, and names that lists of other machines give files."""

import itertools
import unicodedata

import pytest

from deeplab.data.formats import named_files
from deeplab.data.preparation import errors


def write(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b'')


def test_all_folders_are_searched_and_links_followed_once(tmp_path):
  write(tmp_path / 'a', 'x.png', 'b/c/d/e/y.png', '.hidden/z.png', '.z.png')
  write(tmp_path / 'a', '__MACOSX/x.png')
  write(tmp_path / 'far', 'w.png')
  (tmp_path / 'a/link').symlink_to(tmp_path / 'far')
  (tmp_path / 'a/b/up').symlink_to(tmp_path / 'a')
  (tmp_path / 'a/file.png').symlink_to(tmp_path / 'far/w.png')
  (tmp_path / 'a/dead.png').symlink_to(tmp_path / 'nowhere')
  with errors.collect_notes() as notes:
    found = named_files.walk(tmp_path / 'a')
  assert [path.relative_to(tmp_path / 'a').as_posix() for path in found] == [
    *('b/c/d/e/y.png', 'file.png', 'link/w.png', 'x.png'),
  ]
  assert notes == [
    f'{tmp_path}/a: 1 links to nothing left out, such as {tmp_path}/a/dead.png'
  ]


NAME = 'Büro/Straße é.png'


@pytest.mark.parametrize(
  ('stored', 'written', 'backslash'),
  itertools.product(('NFC', 'NFD'), ('NFC', 'NFD'), (False, True)),
)
def test_accents_and_backslashes(tmp_path, stored, written, backslash):
  write(tmp_path, unicodedata.normalize(stored, NAME))
  name = unicodedata.normalize(written, NAME)
  name = name.replace('/', '\\') if backslash else name
  path = named_files.find(name, (tmp_path / 'none', tmp_path), tmp_path)
  assert path.is_file()


@pytest.mark.parametrize(
  'name',
  [
    *('C:\\data\\set\\images\\a.png', '/home/me/set/images/a.png'),
    *('\\\\server\\set\\images\\a.png', 'file:///x/images/a.png'),
    *('../../upload/images/a.png', 'https://x.org/images/a.png'),
  ],
)
def test_paths_of_other_machines(tmp_path, name):
  """As many of the last parts count as there are; it is noted once."""
  write(tmp_path, 'images/a.png', 'a.png')
  with errors.collect_notes() as notes:
    for _ in range(2):
      path = named_files.find(name, (tmp_path,), tmp_path / 'list.txt')
      assert path == tmp_path / 'images/a.png'
  assert notes == [
    f'{tmp_path}/list.txt: names files by paths of another machine; files of '
    f'the same name in {tmp_path} are taken'
  ]
  (tmp_path / 'images/a.png').unlink()
  with errors.collect_notes():
    found = named_files.find(name, (tmp_path,), tmp_path)
  assert found == tmp_path / 'a.png'


def test_a_relative_path_is_not_shortened(tmp_path):
  write(tmp_path, 'a.png')
  assert named_files.find('city/a.png', (tmp_path,), tmp_path) is None


def test_a_name_with_a_backslash_is_found(tmp_path):
  write(tmp_path, 'a\\b.png')
  assert named_files.find('a\\b.png', (tmp_path,), tmp_path).is_file()


@pytest.mark.parametrize(
  'name', ['/{}/secret', '../out/secret', 'x/../../out/secret']
)
def test_nothing_outside_of_the_folders_is_found(tmp_path, name):
  write(tmp_path, 'out/secret', 'data/a.png')
  name = name.format(tmp_path / 'out')
  folder = tmp_path / 'data'
  assert named_files.find(name, (folder,), tmp_path) is None
