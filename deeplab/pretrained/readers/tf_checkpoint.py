"""Reads TensorFlow's checkpoints (`model.ckpt-30000.index`, ...)."""

import os
import pathlib

from deeplab import system
from deeplab.pretrained import merge

_MAX_LINE_CHARS = 1 << 14


def find_index_file(path: str | os.PathLike) -> str | None:
  """Returns the `.index` file of a checkpoint, None if there is none.

  Args:
    path: the file itself, the checkpoint without suffix (`model.ckpt-30000`),
      or the folder that holds it.

  Raises:
    ValueError: a folder holds several checkpoints and names none, or names one
      that it does not hold.
  """
  path = pathlib.Path(path)
  if path.is_dir():
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


def read_tf_checkpoint(path: str | os.PathLike) -> merge.Tensors:
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
  import tensorflow as tf  # slow to import, so only where it is needed

  folder, name = os.path.split(index)
  try:
    with system.path_without_patterns(folder) as path:
      reader = tf.train.load_checkpoint(
        os.path.join(path, name.removesuffix('.index'))
      )
      names = [
        name
        for name, dtype in reader.get_variable_to_dtype_map().items()
        if dtype != tf.string
      ]
      return {name: reader.get_tensor(name) for name in sorted(names)}
  except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as e:
    raise ValueError(
      f'{index}, or the data beside it, is damaged: download both again ({e})'
    ) from e
