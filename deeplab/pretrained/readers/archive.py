"""Reads the TensorFlow checkpoint, or frozen graph, of a .tar.gz archive.

TF DeepLab publishes its networks so: `model.ckpt-30000.index`, its data file,
and `frozen_inference_graph.pb`, in one folder.
"""

from collections.abc import Mapping
import os
import pathlib
import tarfile
import tempfile
import zlib

import numpy as np

from deeplab.pretrained.readers import frozen_graph
from deeplab.pretrained.readers import limits
from deeplab.pretrained.readers import tf_checkpoint

_FROZEN_GRAPH = 'frozen_inference_graph.pb'


def _is_checkpoint_file(name: str) -> bool:
  return name.endswith('.index') or '.data-' in name


def read_archive(path: str) -> Mapping[str, np.ndarray]:
  """Returns the tensors of an archive by their names in TensorFlow.

  Only the files that are read are unpacked, into a folder that is deleted.

  Args:
    path: the .tar.gz file.

  Raises:
    ValueError: the archive is damaged, or has neither a checkpoint nor a frozen
      graph.
  """
  with tempfile.TemporaryDirectory() as folder:
    try:
      budget = limits.ByteBudget(os.path.getsize(path))
      with tarfile.open(path, 'r:gz') as archive:
        for member in archive:
          name = os.path.basename(member.name)
          if not member.isfile() or not (
            _is_checkpoint_file(name) or name == _FROZEN_GRAPH
          ):
            continue
          budget.spend(member.size)
          content = archive.extractfile(member)
          assert content is not None  # of a file
          (pathlib.Path(folder) / name).write_bytes(content.read())
    except (
      tarfile.TarError,
      EOFError,
      OSError,
      ValueError,
      zlib.error,
    ) as error:
      raise ValueError(
        f'{path} is not a whole .tar.gz archive ({error}); download it again'
      ) from None
    try:
      index = tf_checkpoint.find_index_file(folder)
      if index is not None:
        return tf_checkpoint.read_tf_checkpoint(index)
      graph = os.path.join(folder, _FROZEN_GRAPH)
      if os.path.exists(graph):
        return frozen_graph.read_frozen_graph(graph)
    except ValueError as error:
      reason = str(error).replace(f'{folder}{os.sep}', '')
      raise ValueError(f'{path} is damaged ({reason})') from error
  raise ValueError(
    f'{path} holds neither a TensorFlow checkpoint nor {_FROZEN_GRAPH}'
  )
