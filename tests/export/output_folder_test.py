"""The folder of an export appears complete or not at all."""

import os

import pytest

from export import output_folder


def test_an_error_leaves_nothing(tmp_path):
  with (
    pytest.raises(KeyError),
    output_folder.write_atomically(str(tmp_path / 'new' / 'out')) as inside,
  ):
    open(os.path.join(inside, 'half'), 'w').close()
    raise KeyError
  assert os.listdir(tmp_path / 'new') == []


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
  output = tmp_path / 'out'
  for text in ('one', 'two'):
    with output_folder.write_atomically(str(output)) as inside:
      with open(os.path.join(inside, 'report.json'), 'w') as f:
        f.write(text)
      if text == 'two':
        assert (output / 'report.json').read_text() == 'one'
  assert (output / 'report.json').read_text() == 'two'
  assert os.listdir(tmp_path) == ['out']
  (output / 'report.json').rename(output / 'thesis.tex')
  with (
    pytest.raises(ValueError, match='holds no earlier export'),
    output_folder.write_atomically(str(output)),
  ):
    pass
  assert os.listdir(output) == ['thesis.tex']


def test_bytes_of_files_and_folders(tmp_path):
  (tmp_path / 'a').write_bytes(b'123')
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'c').write_bytes(b'4567')
  assert output_folder.file_bytes(str(tmp_path / 'a')) == 3
  assert output_folder.file_bytes(str(tmp_path)) == 7
