"""Text, JSON and XML files of the user, whole and damaged."""

import pytest

from deeplab.data import text_files


def test_a_byte_order_mark_is_no_text(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes('\ufeffstraße\n'.encode())
  assert text_files.read_text(path) == 'straße\n'


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'road\xff', r'a\.txt: not a text in UTF-8 \(byte 4\); save it as UTF-8'),
    ('road'.encode('utf-16'), r'a\.txt: not a text in UTF-8 \(byte 0\)'),
  ],
)
def test_other_encodings_are_rejected(tmp_path, content, message):
  path = tmp_path / 'a.txt'
  path.write_bytes(content)
  for read in (text_files.read_text, text_files.read_json):
    with pytest.raises(ValueError, match=message):
      read(path)


def test_files_that_cannot_be_read(tmp_path):
  for read in (text_files.read_text, text_files.read_xml):
    with pytest.raises(ValueError, match=r'cannot be read \(Is a directory\)'):
      read(tmp_path)
    with pytest.raises(
      ValueError, match=r'none: cannot be read \(No such file'
    ):
      read(tmp_path / 'none')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{"a": 1', r'a\.json: damaged, or not JSON \(Expecting'),
    ('', r'a\.json: damaged, or not JSON \(Expecting value: line 1'),
    ('[' * 100_000, r'a\.json: .* \(it is nested too deeply\)'),
    ('1' * 5000, r'a\.json: damaged, or not JSON \(Exceeds the limit'),
  ],
)
def test_damaged_json(tmp_path, content, message):
  path = tmp_path / 'a.json'
  path.write_text(content, 'utf-8')
  with pytest.raises(ValueError, match=message):
    text_files.read_json(path)
