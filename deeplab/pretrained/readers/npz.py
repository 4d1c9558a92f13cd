"""Reads NumPy's .npz archives of arrays."""

import os
import zipfile

import numpy as np

from deeplab.pretrained.readers import limits


def read_npz(path: str) -> dict[str, np.ndarray]:
  """Returns the arrays of an archive by name; pickled objects are refused.

  Raises:
    OSError: the file cannot be opened.
    ValueError: the file is damaged, or holds other things than arrays.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      limits.check_archive(archive, os.path.getsize(path))
    with np.load(path, allow_pickle=False) as arrays:
      tensors = {name: arrays[name] for name in arrays.files}
    for name, value in tensors.items():
      if not isinstance(value, np.ndarray):  # the bytes of another file
        raise ValueError(f'its member {name[:80]!r} is no array')
    return tensors
  # NumPy parses headers as Python, and seeks to where damaged ones say.
  except Exception as error:
    if isinstance(error, OSError) and error.filename:
      raise
    raise ValueError(
      f'{path} is not a whole .npz archive of arrays ({error}); write it with '
      'numpy.savez(path, **arrays)'
    ) from None
