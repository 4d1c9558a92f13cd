"""MATLAB files of version 5, in which SBD and Pascal Context keep their masks.

SciPy reads them. Its compiled code trusts the types and lengths in a file and
ends the process on wrong ones, so they are checked first.

https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import pathlib
import struct
from typing import Any
import zlib

import numpy as np
import scipy.io

_HEADER_BYTES = 128
# Types of data elements: numbers, text, matrices, and compressed elements.
_NUMBERS = (*range(1, 8), 9, 12, 13, 16, 17, 18)
_MATRIX, _COMPRESSED = 14, 15
# A cell in a structure in a variable is the third level.
_MAX_DEPTH = 8
# A compressed mask of this size has 16,000x16,000 pixels.
_MAX_BYTES = 1 << 28


def read_mask(path: pathlib.Path, *keys: str) -> np.ndarray:
  """Reads a mask from a MATLAB file.

  Args:
    path: the file.
    *keys: name of the variable, and of its fields where it is a structure.

  Returns:
    [H, W] ids of an integer type.

  Raises:
    ValueError: the file is damaged or holds no such mask.
  """
  content = path.read_bytes()
  try:
    _check_elements(content)
    value: Any = scipy.io.loadmat(path)
    for key in keys:
      value = value[key]
      while value.dtype == object:  # a structure is an array [1, 1] of objects
        value = value[0, 0]
  except Exception as error:  # SciPy raises many types for damaged files
    raise ValueError(str(error)) from error
  if value.ndim != 2 or not np.issubdtype(value.dtype, np.integer):
    raise ValueError(
      f'{".".join(keys)} is {value.dtype} {list(value.shape)}, not a mask'
    )
  return value


def _check_elements(content: bytes) -> None:
  """Checks types and lengths of all data elements of a file.

  Raises:
    ValueError: an element is of an unknown type or longer than what holds it.
  """
  order = {b'IM': '<', b'MI': '>'}.get(content[126:_HEADER_BYTES])
  if order is None:
    raise ValueError('not of version 5')
  budget = _MAX_BYTES

  def check(data: memoryview | bytes, depth: int) -> None:
    nonlocal budget
    position = 0
    while position < len(data):
      kind, length = struct.unpack_from(f'{order}II', data, position)
      start, position = position + 8, position + 8
      if kind >> 16:  # up to four bytes of data are in the place of the length
        kind, length, start = kind & 0xFFFF, kind >> 16, start - 4
        if length > 4:
          raise ValueError(f'a short element of {length} bytes')
      elif kind == _COMPRESSED:
        position += length
      else:
        position += length + -length % 8
      if start + length > len(data):
        raise ValueError(f'an element of {length} bytes is cut')
      element = memoryview(data)[start : start + length]
      if kind == _COMPRESSED and not depth:
        unpacked = zlib.decompressobj().decompress(element, budget)
        budget -= len(unpacked)
        if budget <= 0:
          raise ValueError(f'more than {_MAX_BYTES >> 20} MiB')
        check(unpacked, depth + 1)
      elif kind == _MATRIX and depth < _MAX_DEPTH:
        check(element, depth + 1)
      elif kind not in _NUMBERS:
        raise ValueError(f'an element of the unknown type {kind}')

  check(memoryview(content)[_HEADER_BYTES:], 0)
