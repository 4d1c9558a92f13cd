"""Files of weights, by the ends of their names."""

from collections.abc import Callable
from collections.abc import Mapping
import os

import numpy as np

from deeplab.pretrained.readers import hdf5
from deeplab.pretrained.readers import pth
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.readers import tf_checkpoint
from deeplab.pretrained.readers import tflite_weights

READERS: dict[str, Callable[[str], Mapping[str, np.ndarray]]] = {
  '.safetensors': safetensors.read_safetensors,
  '.pth': pth.read_pth,
  '.pt': pth.read_pth,
  '.h5': hdf5.read_hdf5,
  '.hdf5': hdf5.read_hdf5,
  '.keras': hdf5.read_hdf5,
  '.tflite': tflite_weights.read_tflite,
  '.index': tf_checkpoint.read_tf_checkpoint,
}


def read_tensors(path: str) -> Mapping[str, np.ndarray]:
  """Returns the tensors of a file by their names there.

  Raises:
    FileNotFoundError: it does not exist.
    ValueError: its name has no known end, or it is damaged.
  """
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path} does not exist; name a file of weights')
  end = os.path.splitext(path)[1]
  if end not in READERS:
    raise ValueError(
      f'{path} is no file of weights that can be read; its name must end in '
      f'one of {sorted(READERS)}'
    )
  return READERS[end](path)
