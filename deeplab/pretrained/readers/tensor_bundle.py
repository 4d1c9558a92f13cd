"""Reads the two files of a TensorFlow checkpoint without TensorFlow.

`NAME.index` is a sorted table of names (leveldb's table format, uncompressed):
blocks of entries, whose keys leave out what they share with the key before, and
a footer with the place of the block that lists the others. The values are
protos (tensorflow/core/protobuf/tensor_bundle.proto): type, shape, and the
place of the numbers in `NAME.data-00000-of-00001`. Blocks and tensors have
checksums.

TensorFlow's own reader ends its process on a damaged index, and takes seconds
to import.
"""

from collections.abc import Iterator
import functools
import math
import os
from typing import Any

import ml_dtypes
import numpy as np

from deeplab.pretrained.readers import limits

_FOOTER_BYTES = 48
_MAGIC = bytes.fromhex('57fb808b247547db')
_STRING = 7
# Of the numbers of tensorflow/core/framework/types.proto.
_DTYPES = {
  1: np.dtype('f4'),
  2: np.dtype('f8'),
  3: np.dtype('i4'),
  4: np.dtype('u1'),
  5: np.dtype('i2'),
  6: np.dtype('i1'),
  8: np.dtype('c8'),
  9: np.dtype('i8'),
  10: np.dtype('?'),
  14: np.dtype(ml_dtypes.bfloat16),
  17: np.dtype('u2'),
  18: np.dtype('c16'),
  19: np.dtype('f2'),
  22: np.dtype('u4'),
  23: np.dtype('u8'),
}


def _step(crc: np.ndarray) -> np.ndarray:
  """Returns the registers after a byte that was added to them."""
  return _BYTE_TABLE[crc & 0xFF] ^ (crc >> np.uint32(8))


def _byte_table() -> np.ndarray:
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    odd = (table & 1).astype(bool)
    table = (table >> np.uint32(1)) ^ np.where(odd, 0x82F63B78, 0).astype('u4')
  return table


_BYTE_TABLE = _byte_table()


@functools.cache
def _zeros_tables(count: int) -> list[list[int]]:
  """Returns the register after `count` zeros, for each of its byte values."""
  shifts = np.array([[0], [8], [16], [24]], np.uint32)
  crc = np.arange(256, dtype=np.uint32) << shifts
  for _ in range(count):
    crc = _step(crc)
  return crc.tolist()


def masked_crc32c(data: Any) -> int:
  """Returns the checksum of bytes as TensorFlow stores it.

  Rows of equal length are computed side by side; the checksum is linear, so
  that they are joined by what the bytes after a row make of its result.
  """
  values = np.frombuffer(data, np.uint8)
  width = 1 << max(0, int(values.size).bit_length() // 2 - 1)
  tables = _zeros_tables(width)
  rows = values[: values.size // width * width].reshape(-1, width)
  crc = np.zeros(len(rows), np.uint32)
  for column in np.ascontiguousarray(rows.T):
    crc = _step(crc ^ column)
  state = 0xFFFFFFFF
  for row in crc.tolist():
    a, b, c, d = state.to_bytes(4, 'little')
    state = tables[0][a] ^ tables[1][b] ^ tables[2][c] ^ tables[3][d] ^ row
  for value in values[rows.size :]:
    state = int(_BYTE_TABLE[(state ^ int(value)) & 0xFF]) ^ state >> 8
  state ^= 0xFFFFFFFF
  return ((state >> 15 | state << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(content: bytes, start: int) -> tuple[int, int]:
  """Returns a number of variable length, and the place after it."""
  value = 0
  for i in range(10):
    byte = content[start + i]
    value |= (byte & 0x7F) << 7 * i
    if byte < 0x80:
      return value & 0xFFFFFFFFFFFFFFFF, start + i + 1
  raise ValueError('a number in its index is too long')


def _fields(message: bytes) -> dict[int, list[Any]]:
  """Returns the values of a proto by their field numbers."""
  fields: dict[int, list[Any]] = {}
  place = 0
  while place < len(message):
    key, place = _varint(message, place)
    value: Any
    if key & 7 == 0:
      value, place = _varint(message, place)
    elif key & 7 in (1, 2, 5):
      length = {1: 8, 5: 4}.get(key & 7)
      if length is None:
        length, place = _varint(message, place)
      value = message[place : place + length]
      if len(value) < length:
        raise ValueError('an entry of its index is cut off')
      place += length
    else:
      raise ValueError('an entry of its index has an unknown field')
    fields.setdefault(key >> 3, []).append(value)
  return fields


def _number(fields: dict[int, list[Any]], field: int) -> int:
  value = fields.get(field, [0])[-1]
  if isinstance(value, bytes):
    raise ValueError('an entry of its index has a wrong field')
  return value


class _Table:
  """The entries of an index file, within bounds."""

  def __init__(self, content: bytes):
    self._content = content
    self._budget = limits.ByteBudget(len(content))

  def _entries(self, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values of the block at a place."""
    offset, place = _varint(handle, 0)
    size, _ = _varint(handle, place)
    end = offset + size
    block, trailer = self._content[offset:end], self._content[end : end + 5]
    self._budget.spend(len(block))
    if len(block) < max(size, 4) or len(trailer) < 5:
      raise ValueError('its index is cut off')
    crc = int.from_bytes(trailer[1:], 'little')
    if masked_crc32c(block + trailer[:1]) != crc:
      raise ValueError('a checksum of its index differs')
    if trailer[0]:
      raise ValueError('its index is compressed')
    restarts = int.from_bytes(block[-4:], 'little')
    last = size - 4 * (restarts + 1)
    if last < 0:
      raise ValueError('its index is damaged')
    key, place = b'', 0
    while place < last:
      shared, place = _varint(block, place)
      own, place = _varint(block, place)
      length, place = _varint(block, place)
      if shared > len(key) or place + own + length > last:
        raise ValueError('its index is damaged')
      key = key[:shared] + block[place : place + own]
      self._budget.spend(len(key) + length)
      place += own
      yield key, block[place : place + length]
      place += length

  def entries(self) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values of the table."""
    footer = self._content[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_MAGIC):
      raise ValueError('its index does not end as one')
    place = 0
    for _ in range(2):  # the place of the metadata
      _, place = _varint(footer, place)
    for _, handle in self._entries(footer[place:]):
      yield from self._entries(handle)


def _shape(message: bytes) -> tuple[int, ...]:
  return tuple(
    _number(_fields(size), 1) for size in _fields(message).get(2, [])
  )


def read_tensors(index: str) -> dict[str, np.ndarray]:
  """Returns all tensors but texts, by name.

  Args:
    index: path of the .index file; the data lie beside it.

  Raises:
    ValueError: a file is damaged, or a tensor is of an unsupported kind; the
      message is the reason.
    OSError: a file cannot be read.
  """
  with open(index, 'rb') as f:
    entries = dict(_Table(f.read()).entries())
  header = _fields(entries.pop(b'', b''))
  order = '>' if _number(header, 2) else '<'
  shards = _number(header, 1)
  prefix = index.removesuffix('.index')
  tensors = {}
  budgets: dict[int, limits.ByteBudget] = {}
  for key, value in sorted(entries.items()):
    fields = _fields(value)
    kind, shard = _number(fields, 1), _number(fields, 3)
    if kind == _STRING:
      continue
    name = key.decode()
    if fields.get(7):
      raise ValueError(f'{name!r} is stored in slices: save it as a whole')
    if kind not in _DTYPES:
      raise ValueError(f'{name!r} is of the unsupported type {kind}')
    dtype = _DTYPES[kind].newbyteorder(order)
    shape = _shape(fields.get(2, [b''])[-1])
    offset, size = _number(fields, 4), _number(fields, 5)
    path = f'{prefix}.data-{shard:05d}-of-{shards:05d}'
    stored = os.path.getsize(path)
    if math.prod(shape) * dtype.itemsize != size or offset + size > stored:
      raise ValueError(f'{name!r} is cut off')
    budgets.setdefault(shard, limits.ByteBudget(stored)).spend(size)
    with open(path, 'rb') as f:
      f.seek(offset)
      data = f.read(size)
    crc = fields.get(6, [b''])[-1]
    if masked_crc32c(data) != int.from_bytes(crc, 'little'):
      raise ValueError(f'the checksum of {name!r} differs')
    tensors[name] = np.frombuffer(data, dtype).reshape(shape)
  return tensors
