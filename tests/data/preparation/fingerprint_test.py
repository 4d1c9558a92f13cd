"""Names of prepared data change with any file or setting."""

import os

import pytest

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data import image_format
from deeplab.data.builders import folder
from deeplab.data.formats import class_table
from deeplab.data.preparation import fingerprint


def test_it_changes_with_files_and_settings(tmp_path):
  path = tmp_path / 'a'
  path.write_text('one')
  settings = repr(catalog.INFOS['voc'])
  first = fingerprint.hash_files('my-split', [path], settings)
  assert first.startswith('my_split_')
  assert first == fingerprint.hash_files('my-split', [path], settings)
  assert first != fingerprint.hash_files('my-split', [path, path], settings)
  assert first != fingerprint.hash_files(
    'my-split', [path], repr(catalog.INFOS['isaid'])
  )
  path.write_text('four')
  assert first != fingerprint.hash_files('my-split', [path], settings)


def test_it_changes_with_the_files_of_a_folder(tmp_path):
  settings = repr(catalog.INFOS['voc'])
  for name in 'abc':
    (tmp_path / name).write_text('one')

  def name():
    return fingerprint.hash_files('train', [tmp_path], settings)

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


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('ade20k', 'train_6bd1f24852fe'),
    ('coco_panoptic', 'train_b12123587e6e'),
    ('voc', 'train_f7aaba44ae6f'),
    ('vaihingen', 'train_81bc67f0170a'),
  ],
)
def test_data_prepared_by_earlier_versions_is_found(name, expected):
  settings = repr(catalog.INFOS[name])
  assert fingerprint.hash_files('train', [], settings) == expected


def test_folders_prepared_by_earlier_versions_are_found():
  info = dataset_info.DatasetInfo(
    'folder', ('a', 'b'), ((0, 0, 0), (1, 2, 3)), 255
  )
  classes = class_table.ClassTable({'a': 0, 'b': 1}, info)
  settings = folder.describe_earlier_settings(
    classes, image_format.ImageSpec(5, 16)
  )
  expected = 'train_c2e2470020ea'
  assert fingerprint.hash_files('train', [], settings) == expected
