"""Reads a weight file of any supported format, recognized by its content."""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import os
import struct
import zipfile

from absl import logging
import numpy as np

from deeplab.pretrained.readers import archive
from deeplab.pretrained.readers import frozen_graph
from deeplab.pretrained.readers import hdf5
from deeplab.pretrained.readers import isolated
from deeplab.pretrained.readers import npz
from deeplab.pretrained.readers import onnx_initializers
from deeplab.pretrained.readers import paddle
from deeplab.pretrained.readers import pth
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.readers import tf_checkpoint
from deeplab.pretrained.readers import tflite_weights

_read_hdf5 = functools.partial(isolated.read, hdf5.read_hdf5, 'h5py')

READERS: dict[str, Callable[[str], Mapping[str, np.ndarray]]] = {
  'safetensors': safetensors.read_safetensors,
  'pth': pth.read_pth,
  'pdparams': paddle.read_pdparams,
  'hdf5': _read_hdf5,
  'tflite': tflite_weights.read_tflite,
  'tf_checkpoint': tf_checkpoint.read_tf_checkpoint,
  'frozen_graph': frozen_graph.read_frozen_graph,
  'archive': archive.read_archive,
  'npz': npz.read_npz,
  'onnx': onnx_initializers.read_onnx,
}
# The format that a suffix promises: what a damaged file is taken for, and what
# content alone does not tell.
SUFFIXES = {
  '.safetensors': 'safetensors',
  '.pth': 'pth',
  '.pt': 'pth',
  '.bin': 'pth',
  '.ckpt': 'pth',
  '.tar': 'pth',
  '.pdparams': 'pdparams',
  '.h5': 'hdf5',
  '.hdf5': 'hdf5',
  '.keras': 'hdf5',
  '.tflite': 'tflite',
  '.index': 'tf_checkpoint',
  '.pb': 'frozen_graph',
  '.gz': 'archive',
  '.npz': 'npz',
  '.onnx': 'onnx',
}
# Formats whose names are those of modules, below the names of what wraps them.
_OF_MODULES = ('pth', 'pdparams', 'safetensors')
# Names that a network's own parameters share: those of its encoder.
_OWN_PREFIXES = ('backbone', 'encoder', 'features', 'trunk_output')
_HEAD_BYTES = 1 << 10
# The end of a TensorFlow index file, which is a LevelDB table.
_TABLE_MAGIC = struct.pack('<Q', 0xDB4775248B80FB57)


def _is_page(head: bytes) -> bool:
  """Returns True for the beginning of an HTML page."""
  text = head.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
  return text.startswith((b'<!doctype html', b'<html'))


def _zip_format(path: str) -> str:
  """Returns the format of a zip archive by its members; '' if unknown."""
  try:
    with zipfile.ZipFile(path) as members:
      names = members.namelist()
  except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
    return ''
  if any(name.endswith('data.pkl') for name in names):
    return 'pth'
  if any(name.endswith('.h5') for name in names):
    return 'hdf5'
  return 'npz' if any(name.endswith('.npy') for name in names) else ''


def find_format(path: str) -> str:
  """Returns the format of a file, a key of `READERS`; '' if unknown.

  The content decides. The suffix does where content has no mark of its own: a
  damaged file, a pickle, or a protocol buffer.

  Raises:
    OSError: the file cannot be read.
  """
  with open(path, 'rb') as f:
    head = f.read(_HEAD_BYTES)
    f.seek(max(os.path.getsize(path) - len(_TABLE_MAGIC), 0))
    tail = f.read(len(_TABLE_MAGIC))
  promised = SUFFIXES.get(os.path.splitext(path)[1].lower(), '')
  if head.startswith(b'PK'):
    return _zip_format(path) or promised
  if head.startswith(b'\x89HDF\r\n\x1a\n'):
    return 'hdf5'
  if head[4:8] == b'TFL3':
    return 'tflite'
  if head.startswith(b'\x1f\x8b'):
    return 'archive'
  if head[8:9] == b'{' and head[6:8] == b'\0\0':  # the length of its JSON
    return 'safetensors'
  if tail == _TABLE_MAGIC:
    return 'tf_checkpoint'
  if head[:1] == b'\x80' and head[1:2] in b'\2\3\4\5':  # a pickle
    # PyTorch's first one is a number of the format.
    legacy = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.' in head[:32]
    return 'pth' if legacy or promised == 'pth' else 'pdparams'
  return promised


def _drop_shared_prefix(
  path: str, tensors: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
  """Drops the names of wrappers that all names share: 'module.', 'model.'."""
  dropped = ''
  while True:
    prefixes = {name.partition('.')[0] for name in tensors}
    (first, *others) = prefixes or {''}
    # A wrapper has modules below it; 'fc.weight' and 'fc.bias' are a layer.
    depths = [name.count('.') for name in tensors] or [0]
    if others or min(depths) < 1 or max(depths) < 2 or first in _OWN_PREFIXES:
      break
    tensors = {k.partition('.')[2]: value for k, value in tensors.items()}
    dropped += f'{first}.'
  if dropped:
    logging.info(
      '%s: all names begin with %s, which is left out', path, dropped
    )
  return tensors


def read_tensors(path: str) -> Mapping[str, np.ndarray]:
  """Returns the tensors of a file by their names in the file.

  Names of modules are those of the network: a prefix that all of them share,
  such as 'module.', is left out.

  Raises:
    FileNotFoundError: the file does not exist.
    OSError: it cannot be read.
    ValueError: its format is unknown, or it is damaged.
  """
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path} does not exist; name a file of weights')
  with open(path, 'rb') as f:
    if _is_page(f.read(_HEAD_BYTES)):
      raise ValueError(
        f'{path} is an HTML page and not a file of weights, perhaps the login '
        'page of its address; download the file itself'
      )
  form = find_format(path)
  if not form:
    raise ValueError(
      f'{path} has no known weight format, neither by its content nor by its '
      f'suffix; the suffixes are {" ".join(SUFFIXES)}'
    )
  tensors = READERS[form](path)
  return _drop_shared_prefix(path, tensors) if form in _OF_MODULES else tensors
