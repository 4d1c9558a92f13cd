"""Readers in a process of their own, which damage may end."""

import os
import sys

import ml_dtypes
import numpy as np
import pytest

from deeplab.pretrained.readers import isolated


def read_arrays(path):
  print('not a tensor')
  return {
    'b': np.float32([[1, 2], [3, 4]]).T,
    'big-endian': np.arange(3, dtype='>i8'),
    'bfloat16': np.float32([1.5]).astype(ml_dtypes.bfloat16),
    'scalar': np.float64(7),
    'empty': np.zeros((0, 3), bool),
    'complex': np.complex64([1j]),
    'name \n \ud800 ä': np.int8([len(path)]),
  }


def read_nothing(path):
  return {}


def abort(path):
  os.abort()


def spin(path):
  while True:
    pass


def allocate(path):
  return {'x': np.zeros(1 << 28)}  # 2 GiB


def refuse(path):
  raise ValueError(f'{path} is refused: ä\n')


def fail(path):
  raise PermissionError(13, 'Permission denied', path)


def stumble(path):
  raise KeyError('a fault of the reader')


@pytest.fixture
def path(tmp_path):
  (tmp_path / 'a.x').write_bytes(b'')
  return str(tmp_path / 'a.x')


def test_tensors_come_as_they_are(path):
  read = isolated.read(read_arrays, 'math', path)
  expected = read_arrays(path)
  assert list(read) == list(expected)
  for name, value in expected.items():
    assert read[name].dtype == value.dtype.newbyteorder('=')
    assert read[name].shape == value.shape
    np.testing.assert_array_equal(read[name], value)
  assert isolated.read(read_nothing, 'math', path) == {}


def test_errors_of_the_reader_are_raised(path):
  with pytest.raises(ValueError, match=r'a\.x is refused: ä\n$'):
    isolated.read(refuse, 'math', path)
  with pytest.raises(OSError, match=r"Permission denied: '.*a\.x'"):
    isolated.read(fail, 'math', path)
  with pytest.raises(RuntimeError, match=r'(?s)in stumble.*KeyError'):
    isolated.read(stumble, 'math', path)


@pytest.mark.parametrize(
  ('reader', 'reason'),
  [
    (abort, 'math ended by SIGABRT'),
    (spin, 'math did not end'),
  ],
)
def test_the_end_of_the_process_is_one_sentence(path, reader, reason):
  with pytest.raises(
    ValueError,
    match=rf'a\.x is damaged: {reason} when it read the file; download it ag',
  ):
    isolated.read(reader, 'math', path, cpu_seconds=0)


@pytest.mark.skipif(sys.platform != 'linux', reason='limits of Linux')
def test_memory_is_limited(path):
  with pytest.raises(ValueError, match='far more memory than its size'):
    isolated.read(allocate, 'math', path)
