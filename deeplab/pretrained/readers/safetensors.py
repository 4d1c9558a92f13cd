"""Files of .safetensors: named tensors, and texts beside them."""

from collections.abc import Mapping
import os

import numpy as np
import safetensors
import safetensors.numpy

from deeplab.pretrained import merge


def _damaged_file_error(path: str, error: Exception) -> ValueError:
  return ValueError(
    f'{path} is not a whole .safetensors file ({error}); fetch it again'
  )


def read_safetensors(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by name.

  Raises:
    ValueError: the file is damaged, or none of this format.
  """
  try:
    return safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as e:
    raise _damaged_file_error(path, e) from e


def read_metadata(path: str) -> dict[str, str]:
  """Returns the texts that a file holds beside its tensors.

  Raises:
    ValueError: as `read_safetensors`.
  """
  try:
    with safetensors.safe_open(path, 'np') as f:
      return f.metadata() or {}
  except safetensors.SafetensorError as e:
    raise _damaged_file_error(path, e) from e


def write_safetensors(
  path: str, tensors: merge.Tensors, metadata: Mapping[str, str]
) -> None:
  """Writes tensors, float32, and texts beside them.

  Args:
    path: the file; its folder is made. It appears when it is whole.
    tensors: by name.
    metadata: the metadata.
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
