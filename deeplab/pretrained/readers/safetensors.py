"""Reads and writes .safetensors files: named tensors and text metadata."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from deeplab import system
from deeplab.pretrained import merge

# Types that NumPy has; bfloat16 is that of ml_dtypes.
_DTYPES = frozenset(
  [
    *('BOOL', 'U8', 'I8', 'U16', 'I16', 'U32', 'I32', 'U64', 'I64'),
    *('F16', 'BF16', 'F32', 'F64', 'C64'),
  ]
)


def _damaged_file_error(path: str, error: Exception) -> ValueError:
  reason = ' '.join(str(error).split())  # names of tensors may have newlines
  return ValueError(
    f'{path} is not a whole .safetensors file ({reason}); download it again'
  )


class _UnsupportedType(Exception):
  """A tensor of a type that is not read; names both."""


def _read_tensor(file: Any, name: str) -> np.ndarray:
  """Returns a tensor of an open file."""
  dtype = file.get_slice(name).get_dtype()
  if dtype not in _DTYPES:
    raise _UnsupportedType(f'tensor {name!r} is of type {dtype}')
  return file.get_tensor(name)


def read_safetensors(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by name.

  Raises:
    ValueError: the file is damaged, has another format, or holds a tensor of a
      type that NumPy lacks, such as float8.
  """
  try:
    with safetensors.safe_open(path, 'np') as f:
      return {name: _read_tensor(f, name) for name in f.keys()}  # noqa: SIM118
  except _UnsupportedType as e:
    raise ValueError(
      f'{path}: {e}, which cannot be imported: convert it to float32'
    ) from None
  # NumPy has limits of its own, of an empty tensor's axes for instance.
  except (safetensors.SafetensorError, OverflowError, ValueError) as e:
    raise _damaged_file_error(path, e) from e


def read_metadata(path: str) -> dict[str, str]:
  """Returns the text metadata of a file by key.

  Raises:
    ValueError: the file is damaged or has another format.
  """
  try:
    with safetensors.safe_open(path, 'np') as f:
      return f.metadata() or {}
  except safetensors.SafetensorError as e:
    raise _damaged_file_error(path, e) from e


def write_safetensors(
  path: str, tensors: merge.Tensors, metadata: Mapping[str, str]
) -> None:
  """Writes tensors as float32, and text metadata.

  Args:
    path: the file, written atomically; its folder is created.
    tensors: tensors by name.
    metadata: texts by key.
  """
  content = safetensors.numpy.save(
    {
      name: np.ascontiguousarray(tensor, np.float32)
      for name, tensor in tensors.items()
    },
    dict(metadata),
  )
  with system.write_atomically(path) as temporary, open(temporary, 'wb') as f:
    f.write(content)
