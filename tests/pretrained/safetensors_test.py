import json
import struct

import ml_dtypes
import numpy as np
import pytest

from deeplab.pretrained import safetensors


def raw(path, header, data=b''):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + data)
  return str(path)


def test_what_is_written_is_read(tmp_path):
  path = str(tmp_path / 'new' / 'a.safetensors')
  tensors = {
    'b': np.arange(6, dtype=np.float32).reshape(2, 3),
    'a': np.array(5, np.float32),
    'empty': np.zeros((0, 3), np.float32),
  }
  safetensors.write(path, tensors, {'classes': 'cat, dog'})
  back = safetensors.read(path)
  assert back.keys() == tensors.keys()
  for name, value in tensors.items():
    np.testing.assert_array_equal(back[name], value)
  assert safetensors.metadata(path) == {'classes': 'cat, dog'}


@pytest.mark.parametrize(
  ('name', 'dtype'),
  [
    ('F64', '<f8'),
    ('F16', '<f2'),
    ('BF16', ml_dtypes.bfloat16),
    ('I64', '<i8'),
  ],
)
def test_other_types(tmp_path, name, dtype):
  value = np.array([1, -2, 3]).astype(dtype)
  header = {
    'x': {'dtype': name, 'shape': [3], 'data_offsets': [0, value.nbytes]}
  }
  back = safetensors.read(raw(tmp_path / 'x', header, value.tobytes()))['x']
  assert back.dtype == value.dtype
  assert back.tolist() == [1, -2, 3]


def entry(**fields):
  whole = {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}
  return {'x': whole | fields}


@pytest.mark.parametrize(
  ('header', 'data'),
  [
    (entry(), bytes(7)),
    (entry(shape=[3]), bytes(12)),
    (entry(shape=[-1, -2]), bytes(8)),
    (entry(data_offsets=[-8, 0]), bytes(8)),
    (entry(data_offsets=[4, 12]), bytes(8)),
    (entry(dtype='F3'), bytes(8)),
    (entry(dtype=None), bytes(8)),
    ({'x': [1, 2]}, bytes(8)),
    ({'x': {}}, bytes(8)),
    ([], bytes(8)),
    (b'{"x": ', bytes(8)),
    (b'\xff\xfe', bytes(8)),
  ],
)
def test_damage_is_one_sentence_with_the_path(tmp_path, header, data):
  path = raw(tmp_path / 'x.safetensors', header, data)
  with pytest.raises(ValueError, match=r'x\.safetensors is not a whole'):
    safetensors.read(path)


@pytest.mark.parametrize(
  'content', [b'', b'1234', struct.pack('<Q', 2**63), struct.pack('<Q', 50)]
)
def test_a_cut_header_is_damage(tmp_path, content):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(content)
  with pytest.raises(ValueError, match='header is not whole'):
    safetensors.read(str(path))


def test_the_original_library_agrees(tmp_path):
  numpy = pytest.importorskip('safetensors.numpy')
  path = str(tmp_path / 'a.safetensors')
  tensors = {'a': np.arange(4, dtype=np.float32), 'b': np.float32([[1, 2]])}
  safetensors.write(path, tensors, {'by': 'us'})
  for name, value in numpy.load_file(path).items():
    np.testing.assert_array_equal(value, tensors[name])
  numpy.save_file(tensors, path, {'by': 'them'})
  for name, value in safetensors.read(path).items():
    np.testing.assert_array_equal(value, tensors[name])
  assert safetensors.metadata(path) == {'by': 'them'}
