"""The .safetensors format: a table of tensors, and their bytes.

    8 bytes    length of the header, little-endian
    header     JSON: name -> {dtype, shape, data_offsets}, and '__metadata__'
    the rest   the tensors, little-endian, without gaps

Source: the format's description, github.com/huggingface/safetensors.
"""

from collections.abc import Mapping
import json
import math
import os
import struct
from typing import Any

import ml_dtypes
import numpy as np

from deeplab.pretrained import merge

_DTYPES = {
  'F64': np.dtype('<f8'),
  'F32': np.dtype('<f4'),
  'F16': np.dtype('<f2'),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'I64': np.dtype('<i8'),
  'I32': np.dtype('<i4'),
  'I16': np.dtype('<i2'),
  'I8': np.dtype('i1'),
  'U8': np.dtype('u1'),
  'BOOL': np.dtype('?'),
}

# What the format allows a header; more is no header.
_LONGEST = 100_000_000


def _header(path: str) -> tuple[dict[str, Any], int]:
  """Returns the header and where the tensors begin."""
  size = os.path.getsize(path)
  with open(path, 'rb') as f:
    start = f.read(8)
    length = struct.unpack('<Q', start)[0] if len(start) == 8 else _LONGEST
    if length >= _LONGEST or 8 + length > size:
      raise ValueError('its header is not whole')
    header = json.loads(f.read(length))
  if not isinstance(header, dict):
    raise ValueError('its header is no table')
  return header, 8 + length


def _tensor(data: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
  """Returns one tensor of the bytes behind the header."""
  dtype = _DTYPES[entry['dtype']]
  shape = tuple(entry['shape'])
  first, last = entry['data_offsets']
  if not all(isinstance(n, int) and n >= 0 for n in (*shape, first, last)):
    raise ValueError('its shapes and offsets are not whole numbers')
  if last > data.size or last - first != math.prod(shape) * dtype.itemsize:
    raise ValueError('its tensors do not lie within it')
  return data[first:last].view(dtype).reshape(shape)


def read(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by name; bytes are read when they are used.

  Raises:
    ValueError: the file is damaged, or none of this format.
  """
  try:
    header, start = _header(path)
    data = np.memmap(path, np.uint8, 'r')[start:]
    return {
      name: _tensor(np.asarray(data), entry)
      for name, entry in header.items()
      if name != '__metadata__'
    }
  except (ValueError, KeyError, TypeError, UnicodeDecodeError) as e:
    raise ValueError(
      f'{path} is not a whole .safetensors file ({e}); fetch it again'
    ) from e


def metadata(path: str) -> dict[str, str]:
  """Returns the texts that a file holds beside its tensors.

  Raises:
    ValueError: as `read`.
  """
  try:
    texts = _header(path)[0].get('__metadata__', {})
    return {str(k): str(v) for k, v in texts.items()}
  except (ValueError, AttributeError) as e:
    raise ValueError(
      f'{path} is not a whole .safetensors file ({e}); fetch it again'
    ) from e


def write(path: str, tensors: merge.Tensors, texts: Mapping[str, str]) -> None:
  """Writes tensors, float32, and texts beside them.

  Args:
    path: the file; its folder is made. It appears when it is whole.
    tensors: by name.
    texts: the metadata.
  """
  header: dict[str, Any] = {'__metadata__': dict(texts)}
  offset = 0
  for name, tensor in sorted(tensors.items()):
    end = offset + 4 * tensor.size
    header[name] = {
      'dtype': 'F32',
      'shape': list(tensor.shape),
      'data_offsets': [offset, end],
    }
    offset = end
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)  # tensors begin aligned
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  partial = f'{path}.partial'
  with open(partial, 'wb') as f:
    f.write(struct.pack('<Q', len(text)) + text)
    for _, tensor in sorted(tensors.items()):
      f.write(np.ascontiguousarray(tensor, '<f4').tobytes())
  os.replace(partial, path)
