"""Names change with any file or fact."""

import os

from deeplab.data import catalog
from deeplab.data.preparation import fingerprint


def test_it_changes_with_files_and_facts(tmp_path):
  path = tmp_path / 'a'
  path.write_text('one')
  facts = catalog.INFOS['voc']
  first = fingerprint.hash_files('my-split', [path], facts)
  assert first.startswith('my_split_')
  assert first == fingerprint.hash_files('my-split', [path], facts)
  assert first != fingerprint.hash_files('my-split', [path, path], facts)
  assert first != fingerprint.hash_files(
    'my-split', [path], catalog.INFOS['isaid']
  )
  path.write_text('four')
  assert first != fingerprint.hash_files('my-split', [path], facts)


def test_it_changes_with_the_files_of_a_folder(tmp_path):
  facts = catalog.INFOS['voc']
  for name in 'abc':
    (tmp_path / name).write_text('one')

  def name():
    return fingerprint.hash_files('train', [tmp_path], facts)

  first = name()
  state = tmp_path.stat()
  (tmp_path / 'b').write_text('three')
  assert tmp_path.stat().st_mtime_ns == state.st_mtime_ns
  second = name()
  os.utime(tmp_path / 'b', (1, 1))
  third = name()
  (tmp_path / 'c').rename(tmp_path / 'd')
  assert len({first, second, third, name()}) == 4
  assert name() == name()
