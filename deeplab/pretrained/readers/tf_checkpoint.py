"""Reads TensorFlow's checkpoints (`model.ckpt-30000.index`, ...)."""

import os
import pathlib

import numpy as np

from deeplab.pretrained.readers import tensor_bundle

_MAX_LINE_CHARS = 1 << 14


def find_index_file(path: str | os.PathLike) -> str | None:
  """Returns the `.index` file of a checkpoint, None if there is none.

  Args:
    path: the file itself, the checkpoint without suffix (`model.ckpt-30000`),
      the folder that holds it, or a SavedModel, whose `variables` hold it.

  Raises:
    ValueError: a folder holds several checkpoints and names none, or names one
      that it does not hold.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    if (path / 'saved_model.pb').is_file():
      path /= 'variables'
    latest = path / 'checkpoint'
    index_files = sorted(path.glob('*.index'))
    if latest.is_file():
      # Its first line names the newest, possibly by a path on the machine that
      # wrote it: model_checkpoint_path: "/there/model.ckpt-30000".
      with open(latest, encoding='utf-8', errors='replace') as f:
        name = f.readline(_MAX_LINE_CHARS).partition('"')[2].partition('"')[0]
      newest = path / f'{pathlib.PurePosixPath(name).name}.index'
      if newest not in index_files:
        raise ValueError(
          f'{latest} names {newest.name}, which is missing in the folder: '
          'download it too'
        )
      return str(newest)
    if len(index_files) > 1:
      raise ValueError(
        f'{path} holds {len(index_files)} checkpoints (*.index) and no file '
        "'checkpoint' that names one: give the path of one .index file"
      )
    return str(index_files[0]) if index_files else None
  if path.suffix != '.index':
    path = path.with_name(f'{path.name}.index')
  return str(path) if path.is_file() else None


def read_tf_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a TensorFlow checkpoint.

  Args:
    path: the .index file, the checkpoint without suffix, or its folder.

  Returns:
    All tensors but strings by their names, in their own dtypes.

  Raises:
    ValueError: there is no checkpoint, several, or a damaged one.
  """
  index = find_index_file(path)
  if index is None:
    raise ValueError(f'there is no TensorFlow checkpoint {path}')
  try:
    return tensor_bundle.read_tensors(index)
  except (IndexError, TypeError, OSError, ValueError) as e:
    raise ValueError(
      f'{index}, or the data beside it, is damaged: download both again ({e})'
    ) from e
