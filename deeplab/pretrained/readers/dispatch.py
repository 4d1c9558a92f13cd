"""Reads a weight file of any supported format, chosen by its suffix."""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import os

import numpy as np

from deeplab.pretrained.readers import archive
from deeplab.pretrained.readers import frozen_graph
from deeplab.pretrained.readers import hdf5
from deeplab.pretrained.readers import isolated
from deeplab.pretrained.readers import pth
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.readers import tf_checkpoint
from deeplab.pretrained.readers import tflite_weights

_read_hdf5 = functools.partial(isolated.read, hdf5.read_hdf5, 'h5py')

READERS: dict[str, Callable[[str], Mapping[str, np.ndarray]]] = {
  '.safetensors': safetensors.read_safetensors,
  '.pth': pth.read_pth,
  '.pt': pth.read_pth,
  '.h5': _read_hdf5,
  '.hdf5': _read_hdf5,
  '.keras': _read_hdf5,
  '.tflite': tflite_weights.read_tflite,
  '.index': tf_checkpoint.read_tf_checkpoint,
  '.pb': frozen_graph.read_frozen_graph,
  '.gz': archive.read_archive,
}


def read_tensors(path: str) -> Mapping[str, np.ndarray]:
  """Returns the tensors of a file by their names in the file.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: its suffix is unknown, or it is damaged.
  """
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path} does not exist; name a file of weights')
  suffix = os.path.splitext(path)[1]
  if suffix not in READERS:
    raise ValueError(
      f'{path} has no known weight format; its name must end in one of '
      f'{sorted(READERS)}'
    )
  return READERS[suffix](path)
