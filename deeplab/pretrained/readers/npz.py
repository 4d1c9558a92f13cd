"""Reads NumPy's .npz archives of arrays."""

import os
import zipfile
import zlib

import numpy as np

from deeplab.pretrained.readers import limits


def read_npz(path: str) -> dict[str, np.ndarray]:
  """Returns the arrays of an archive by name; pickled objects are refused.

  Raises:
    ValueError: the file is damaged, or holds other things than arrays.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      limits.check_archive(archive, os.path.getsize(path))
    with np.load(path, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except (
    *(zipfile.BadZipFile, zlib.error, EOFError, KeyError, MemoryError),
    *(NotImplementedError, RuntimeError, SyntaxError, TypeError, ValueError),
  ) as error:
    raise ValueError(
      f'{path} is not a whole .npz archive of arrays ({error}); write it with '
      'numpy.savez(path, **arrays)'
    ) from None
