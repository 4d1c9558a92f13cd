"""Tensors out of TensorFlow's checkpoints (`model.ckpt-30000.index`, ...)."""

import os
import pathlib

from deeplab.pretrained import merge


def _prefix(path: pathlib.Path) -> pathlib.Path:
  """Returns the checkpoint's path without the suffixes of its files.

  Raises:
    ValueError: there is none, or a folder holds several.
  """
  if path.is_dir():
    latest = path / 'checkpoint'
    if latest.is_file():
      # Its first line names the newest, perhaps by a path of the machine that
      # wrote it: model_checkpoint_path: "/there/model.ckpt-30000".
      name = latest.read_text().partition('"')[2].partition('"')[0]
      path = path / pathlib.PurePosixPath(name).name
    else:
      found = sorted(path.glob('*.index'))
      if len(found) != 1:
        raise ValueError(
          f'{path} holds {len(found)} checkpoints (*.index) and no file '
          "'checkpoint' that names one: name one yourself"
        )
      path = found[0]
  path = path.with_suffix('') if path.suffix == '.index' else path
  if not path.with_name(f'{path.name}.index').is_file():
    raise ValueError(f'there is no TensorFlow checkpoint {path}.index')
  return path


def read(path: str | os.PathLike) -> merge.Tensors:
  """Reads a TensorFlow checkpoint.

  Args:
    path: the checkpoint without suffix (`model.ckpt-30000`), its `.index` file,
      or the folder that holds it.

  Returns:
    All its tensors by their names, in the dtypes that they have; strings are
    left out.

  Raises:
    ValueError: there is no checkpoint, several, or a damaged one.
  """
  prefix = _prefix(pathlib.Path(path))
  import tensorflow as tf  # slow to import, and needed here alone

  try:
    reader = tf.train.load_checkpoint(str(prefix))
    names = [
      name
      for name, dtype in reader.get_variable_to_dtype_map().items()
      if dtype != tf.string
    ]
    return {name: reader.get_tensor(name) for name in sorted(names)}
  except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as e:
    raise ValueError(
      f'{prefix}.index, or the data beside it, is damaged: fetch both again '
      f'({e})'
    ) from e
