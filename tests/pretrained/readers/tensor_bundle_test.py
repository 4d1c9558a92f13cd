import struct

import numpy as np
import pytest
import tensorflow as tf

from deeplab.pretrained.readers import tensor_bundle


def mask(crc):
  """Hides a checksum as TensorFlow does (tensorflow/core/lib/hash/crc32c.h)."""
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize(
  ('data', 'crc'),
  [
    # RFC 3720, B.4, and the check value of CRC-32C.
    (bytes(32), 0x8A9136AA),
    (b'\xff' * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b'123456789', 0xE3069283),
    (b'', 0),
  ],
)
def test_published_checksums(data, crc):
  assert tensor_bundle.masked_crc32c(data) == mask(crc)


def save(prefix, tensors):
  tf.raw_ops.SaveV2(
    prefix=str(prefix),
    tensor_names=list(tensors),
    shape_and_slices=[''] * len(tensors),
    tensors=list(tensors.values()),
  )
  return f'{prefix}.index'


def check(index, expected):
  read = tensor_bundle.read_tensors(index)
  assert sorted(read) == sorted(expected)
  for name, value in expected.items():
    assert read[name].dtype == value.dtype
    np.testing.assert_array_equal(read[name], value)


def test_types_of_numbers_and_texts(tmp_path):
  kinds = '?', 'i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f2', 'f4', 'f8'
  kinds = (*kinds, 'c8', 'c16', tf.bfloat16.as_numpy_dtype)
  values = {str(kind): np.array([[1, 0, 3]]).astype(kind) for kind in kinds}
  texts = {'texts': np.array([b'a', b'b'])}
  check(save(tmp_path / 'm', values | texts), values)


def test_sizes_around_the_rows_of_the_checksum(tmp_path):
  rng = np.random.default_rng(0)
  sizes = [*range(70), 255, 256, 257, 1023, 1025, 4096, 65537, 300_001]
  values = {
    f'x{size}': rng.integers(0, 256, size).astype(np.uint8) for size in sizes
  }
  check(save(tmp_path / 'm', values), values)


def test_an_index_of_several_blocks(tmp_path):
  values = {
    f'layer{i % 7}/block{i}/{"weights" * 10}': np.int32([i])
    for i in range(4000)
  }
  check(save(tmp_path / 'm', values), values)


def varint(value):
  content = b''
  while value > 127:
    content += bytes([value & 127 | 128])
    value >>= 7
  return content + bytes([value])


def block(entries):
  """Returns the content of a block, and its bytes in the file."""
  content = b''.join(
    varint(shared) + varint(len(key)) + varint(len(value)) + key + value
    for shared, key, value in entries
  )
  content += struct.pack('<II', 0, 1)
  crc = tensor_bundle.masked_crc32c(content + b'\0')
  return content, content + b'\0' + struct.pack('<I', crc)


def table(entries):
  """Returns an index of one block, with correct checksums."""
  data, first = block(entries)
  listed, second = block([(0, b'z', b'\0' + varint(len(data)))])
  footer = b'\0\0' + varint(len(first)) + varint(len(listed))
  magic = bytes.fromhex('57fb808b247547db')
  return first + second + footer.ljust(40, b'\0') + magic


HEADER = (0, b'', b'\x08\x01')


@pytest.mark.parametrize(
  ('entries', 'reason'),
  [
    ([HEADER, (0, b'x', b'\x08\x01\x28\x04')], "the checksum of 'x' differs"),
    ([HEADER, (0, b'x', b'\x08\x01\x28\x05')], "'x' is cut off"),
    ([HEADER, (0, b'x', b'\x08\x01\x20\x7f\x28\x04')], "'x' is cut off"),
    ([HEADER, (0, b'x', b'\x08\x14')], "'x' is of the unsupported type 20"),
    ([HEADER, (0, b'x', b'\x08\x01\x3a\x00')], "'x' is stored in slices"),
    ([HEADER, (0, b'x', b'\x0a\x01a')], 'has a wrong field'),
    ([HEADER, (0, b'x', b'\x0b')], 'has an unknown field'),
    ([HEADER, (0, b'x', b'\x12\x09\x12')], 'is cut off'),
    ([HEADER, (0, b'x', b'\x08' + b'\xff' * 10)], 'is too long'),
    ([HEADER, (0, b'\xff', b'\x08\x01')], 'codec can.t decode'),
  ],
)
def test_damage_is_named(tmp_path, entries, reason):
  (tmp_path / 'm.index').write_bytes(table(entries))
  (tmp_path / 'm.data-00000-of-00001').write_bytes(bytes(4))
  with pytest.raises(ValueError, match=reason):
    tensor_bundle.read_tensors(str(tmp_path / 'm.index'))


def test_other_shards_are_beside_the_index(tmp_path):
  (tmp_path / 'm.index').write_bytes(
    table([HEADER, (0, b'x', b'\x08\x01\x18\x05')])
  )
  with pytest.raises(FileNotFoundError, match=r'm\.data-00005-of-00001'):
    tensor_bundle.read_tensors(str(tmp_path / 'm.index'))


def test_shared_keys_are_not_copied_for_ever(tmp_path):
  # Each key has the 1,000 bytes of the one before, and takes 4 in the file.
  entries = [(0, b'k' * 1000, b''), *[(1000, b'', b'')] * 4000]
  (tmp_path / 'm.index').write_bytes(table(entries))
  with pytest.raises(ValueError, match='more than 20 times its own size'):
    tensor_bundle.read_tensors(str(tmp_path / 'm.index'))


def test_every_flipped_bit_of_the_numbers_is_noticed(tmp_path):
  index = save(tmp_path / 'm', {'x': np.arange(5, dtype=np.float32)})
  path = tmp_path / 'm.data-00000-of-00001'
  whole = path.read_bytes()
  for bit in range(8 * len(whole)):
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="the checksum of 'x' differs"):
      tensor_bundle.read_tensors(index)
