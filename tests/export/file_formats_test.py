"""The table of file formats."""

import pytest

from deeplab.inference import load
from export import file_formats

FORMATS = file_formats.FORMATS


@pytest.mark.parametrize('name', FORMATS)
def test_an_entry_is_consistent(name):
  entry = FORMATS[name]
  assert entry.name == name
  assert entry.base == '' or FORMATS[entry.base].suffix == '.tflite'
  assert entry.replaces == '' or FORMATS[entry.replaces].base == ''
  assert entry.group not in FORMATS
  if entry.base:
    # These are those of the base.
    assert not entry.calibrated and not entry.integer_io
  if entry.integer_io:
    assert entry.suffix == '.tflite'  # the device checks read it
  if entry.summarize and entry.open is file_formats._open_file:
    assert entry.suffix in load.PREDICTOR_CLASSES


def test_defaults_exist():
  assert set(file_formats.DEFAULT_FORMATS) <= set(FORMATS)


def test_groups():
  names = file_formats.expand_groups(('int8', 'onnx', 'unknown'))
  assert names == ('int8', 'onnx_float32', 'onnx_int8', 'unknown')
  assert file_formats.expand_groups(()) == ()


def test_files_and_folders(tmp_path):
  path = tmp_path / 'float32.tflite'
  path.write_bytes(b'abc')
  file = file_formats.File(FORMATS['float32'], str(path))
  assert file.name == 'float32.tflite'
  assert file.content() == b'abc'
  assert file.digest().startswith('ba7816bf')  # SHA-256 of 'abc'
  assert file_formats.File(FORMATS['c'], str(tmp_path)).digest() is None
