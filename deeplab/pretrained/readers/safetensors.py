"""Reads and writes .safetensors files: named tensors and text metadata."""

from collections.abc import Mapping
import os

import numpy as np
import safetensors
import safetensors.numpy

from deeplab.pretrained import merge


def _damaged_file_error(path: str, error: Exception) -> ValueError:
  return ValueError(
    f'{path} is not a whole .safetensors file ({error}); download it again'
  )


def read_safetensors(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by name.

  Raises:
    ValueError: the file is damaged or has another format.
  """
  try:
    return safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as e:
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
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  partial = f'{path}.partial'
  safetensors.numpy.save_file(
    {
      name: np.ascontiguousarray(tensor, np.float32)
      for name, tensor in tensors.items()
    },
    partial,
    dict(metadata),
  )
  os.replace(partial, path)
