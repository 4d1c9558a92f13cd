"""Texts, JSON and XML of the user in every encoding, whole and damaged."""

import itertools

import pytest

from deeplab.files import json_files
from deeplab.files import text_files

ENCODINGS = ('utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32')
LINE_ENDS = ('\n', '\r\n', '\r')


@pytest.mark.parametrize(
  ('encoding', 'end'), itertools.product(ENCODINGS, LINE_ENDS)
)
def test_texts_of_every_encoding(tmp_path, encoding, end):
  path = tmp_path / 'a.txt'
  path.write_bytes(f'road 1{end}straße{end}'.encode(encoding))
  assert text_files.read_text(path) == 'road 1\nstraße\n'
  path.write_bytes(f'{{"a":{end} "ä"}}'.encode(encoding))
  assert json_files.read_user_json(path) == {'a': 'ä'}
  assert json_files.read_json(path) == {'a': 'ä'}


@pytest.mark.parametrize('declared', ['', 'utf-8', 'utf-16'])
@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32'])
def test_xml_with_a_byte_order_mark(tmp_path, encoding, declared):
  """The mark is right where the header says something else."""
  header = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ''
  path = tmp_path / 'a.xml'
  path.write_bytes(f'{header}\r\n<a name="straße"/>'.encode(encoding))
  assert text_files.read_xml(path).get('name') == 'straße'


def test_xml_in_the_encoding_of_its_header(tmp_path):
  path = tmp_path / 'a.xml'
  header = '<?xml version="1.0" encoding="iso-8859-1"?>'
  path.write_bytes(f'{header}<a name="straße"/>'.encode('latin-1'))
  assert text_files.read_xml(path).get('name') == 'straße'


def test_short_and_empty_texts(tmp_path):
  path = tmp_path / 'a.txt'
  for content, expected in (
    (b'', ''),
    (b'a', 'a'),
    (b'ab', 'ab'),
    (b'\xff\xfe', ''),
    (b'\xef\xbb\xbf', ''),
  ):
    path.write_bytes(content)
    assert text_files.read_text(path) == expected


@pytest.mark.parametrize(
  ('content', 'byte'),
  [
    (b'road\xff', 4),
    ('straße'.encode('latin-1'), 4),
    (b'\xff\xfea', 0),
  ],
)
def test_other_encodings_are_rejected(tmp_path, content, byte):
  path = tmp_path / 'a.txt'
  path.write_bytes(content)
  message = rf'a\.txt: not a text in UTF-8 \(byte {byte}\); save it as UTF-8'
  with pytest.raises(ValueError, match=message):
    text_files.read_text(path)
  with pytest.raises(ValueError, match=r'a\.txt is damaged, it is not valid'):
    json_files.read_user_json(path)


def test_files_that_cannot_be_read(tmp_path):
  for read in (
    *(text_files.read_text, text_files.read_xml, json_files.read_user_json),
  ):
    with pytest.raises(ValueError, match=r'cannot be read \(Is a directory\)'):
      read(tmp_path)
    with pytest.raises(
      ValueError, match=r'none: cannot be read \(No such file'
    ):
      read(tmp_path / 'none')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{"a": 1', r'a\.json is damaged, it is not valid JSON \(Expecting'),
    ('', r'a\.json is damaged, it is not valid JSON \(it is empty\)'),
    ('[' * 100_000, r'a\.json .* \(it is nested too deeply\)'),
    ('1' * 5000, r'a\.json is damaged, it is not valid JSON \(Exceeds the lim'),
  ],
)
def test_damaged_json(tmp_path, content, message):
  path = tmp_path / 'a.json'
  path.write_text(content, 'utf-8')
  with pytest.raises(ValueError, match=message):
    json_files.read_user_json(path)


def test_other_programs_write_nan(tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('{"area": NaN}', 'utf-8')
  assert str(json_files.read_user_json(path)['area']) == 'nan'
  with pytest.raises(ValueError, match='NaN is no number of JSON'):
    json_files.read_json(path)
