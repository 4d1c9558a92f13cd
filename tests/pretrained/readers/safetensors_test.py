import json
import struct

import ml_dtypes
import numpy as np
import pytest

from deeplab.pretrained.readers import safetensors


def raw(path, header, data=b''):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + data)
  return str(path)


def test_round_trip(tmp_path):
  path = str(tmp_path / 'new' / 'a.safetensors')
  tensors = {
    'b': np.arange(6, dtype=np.float32).reshape(2, 3),
    'a': np.array(5, np.float32),
    'empty': np.zeros((0, 3), np.float32),
  }
  safetensors.write_safetensors(path, tensors, {'classes': 'cat, dog'})
  back = safetensors.read_safetensors(path)
  assert back.keys() == tensors.keys()
  for name, value in tensors.items():
    np.testing.assert_array_equal(back[name], value)
  assert safetensors.read_metadata(path) == {'classes': 'cat, dog'}


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
  back = safetensors.read_safetensors(
    raw(tmp_path / 'x', header, value.tobytes())
  )['x']
  assert back.dtype == value.dtype
  assert back.tolist() == [1, -2, 3]


@pytest.mark.parametrize(
  ('header', 'data'),
  [
    ({'shape': [2]}, bytes(7)),
    ({'shape': [3]}, bytes(12)),
    ({'shape': [2], 'dtype': 'F3'}, bytes(8)),
    (b'{"x": ', bytes(8)),
  ],
)
def test_damage_is_one_sentence_with_the_path(tmp_path, header, data):
  if isinstance(header, dict):
    whole = {'dtype': 'F32', 'data_offsets': [0, 8]}
    header = {'x': whole | header}
  path = raw(tmp_path / 'x.safetensors', header, data)
  with pytest.raises(ValueError, match=r'x\.safetensors is not a whole'):
    safetensors.read_safetensors(path)
  with pytest.raises(ValueError, match=r'x\.safetensors is not a whole'):
    safetensors.read_metadata(path)


def test_an_empty_tensor_of_endless_axes_is_one_sentence(tmp_path):
  header = {
    'x': {'dtype': 'F32', 'shape': [0, 2**63], 'data_offsets': [0, 0]},
    'a\nb': {'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]},
  }
  with pytest.raises(ValueError, match=r'x\.safetensors is not a whole'):
    safetensors.read_safetensors(raw(tmp_path / 'x.safetensors', header))
  header['a\nb']['shape'] = [1]
  with pytest.raises(
    ValueError, match=r'x\.safetensors is not a whole [^\n]*$'
  ):
    safetensors.read_safetensors(raw(tmp_path / 'x.safetensors', header))


@pytest.mark.parametrize(
  ('dtype', 'size'),
  [
    *(('F8_E4M3', 4), ('F8_E5M2', 4), ('F8_E8M0', 4), ('F8_E4M3FNUZ', 4)),
    *(('F8_E5M2FNUZ', 4), ('F6_E2M3', 3), ('F6_E3M2', 3), ('F4', 2)),
  ],
)
def test_types_that_numpy_lacks_are_one_sentence(tmp_path, dtype, size):
  header = {'x': {'dtype': dtype, 'shape': [4], 'data_offsets': [0, size]}}
  path = raw(tmp_path / 'x.safetensors', header, bytes(size))
  with pytest.raises(
    ValueError,
    match=rf"x\.safetensors: tensor 'x' is of type {dtype}, which cannot be "
    'imported: convert it to float32$',
  ):
    safetensors.read_safetensors(path)


@pytest.mark.parametrize(
  ('dtype', 'size', 'expected'),
  [
    *(('BOOL', 1, '?'), ('U8', 1, 'u1'), ('I8', 1, 'i1'), ('U16', 2, 'u2')),
    *(('I16', 2, 'i2'), ('U32', 4, 'u4'), ('I32', 4, 'i4'), ('U64', 8, 'u8')),
    *(('F32', 4, 'f4'), ('C64', 8, 'c8')),
  ],
)
def test_types_of_numpy_are_read(tmp_path, dtype, size, expected):
  header = {'x': {'dtype': dtype, 'shape': [3], 'data_offsets': [0, 3 * size]}}
  path = raw(tmp_path / 'x.safetensors', header, bytes(3 * size))
  assert safetensors.read_safetensors(path)['x'].dtype == np.dtype(expected)


def test_file_without_metadata(tmp_path):
  header = {'x': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}
  path = raw(tmp_path / 'x', header, bytes(4))
  assert safetensors.read_metadata(path) == {}
