"""Reads PyTorch's .pth files without PyTorch.

There are two formats: the zip archive (PyTorch 1.6 and later) of a pickle and
one file per storage, and the older sequence of pickles followed by the
storages. A pickle is a program: this reader allows only the functions that
rebuild tensors in dictionaries, and rejects any other with its name.

The formats are defined by `torch/serialization.py` and `torch/_utils.py`.
"""

from collections import OrderedDict
from collections.abc import Mapping
import io
import math
import pickle
import struct
from typing import IO
from typing import Any
from typing import NamedTuple
import zipfile

import ml_dtypes
import numpy as np

_DTYPES = {
  'DoubleStorage': np.dtype('f8'),
  'FloatStorage': np.dtype('f4'),
  'HalfStorage': np.dtype('f2'),
  'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
  'LongStorage': np.dtype('i8'),
  'IntStorage': np.dtype('i4'),
  'ShortStorage': np.dtype('i2'),
  'CharStorage': np.dtype('i1'),
  'ByteStorage': np.dtype('u1'),
  'BoolStorage': np.dtype('?'),
}

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C

# Keys under which training programs store a network's tensors, in order of
# preference.
_STATE_DICT_KEYS = ('state_dict_ema', 'state_dict', 'model')


class _StorageType(NamedTuple):
  """The class of a storage, such as 'FloatStorage'."""

  name: str


class _Storage(NamedTuple):
  """A one-dimensional array of numbers in the file."""

  type_name: str
  key: str
  length: int


class _Tensor(NamedTuple):
  """A view of a storage; offset and strides count numbers, not bytes."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _RebuildTensor:
  """Replaces PyTorch's functions that rebuild tensors.

  It is immutable, so that a pickle cannot alter it.
  """

  __slots__ = ()

  def __call__(self, storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter:
  """Replaces PyTorch's rebuild function of parameters: returns the tensor."""

  __slots__ = ()

  def __call__(self, tensor, *_):
    return tensor


_ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
  ('collections', 'OrderedDict'): OrderedDict,
  ('torch._utils', '_rebuild_tensor'): _RebuildTensor(),
  ('torch._utils', '_rebuild_tensor_v2'): _RebuildTensor(),
  ('torch._utils', '_rebuild_parameter'): _RebuildParameter(),
  **{('torch', name): _StorageType(name) for name in _DTYPES},
}


class _UnsafePickle(Exception):
  """The pickle asks for a global that tensors do not need."""


class _Unpickler(pickle.Unpickler):
  """Rebuilds plain values and tensors, and nothing else.

  Attributes:
    storages: the storages that the pickle refers to, by their keys.
  """

  def __init__(self, f: IO[bytes]):
    super().__init__(f, encoding='utf-8')
    self.storages: dict[str, _Storage] = {}

  def find_class(self, module: str, name: str) -> Any:
    """Returns the replacement of an allowed global.

    Raises:
      _UnsafePickle: any other global.
    """
    try:
      return _ALLOWED_GLOBALS[module, name]
    except KeyError:
      raise _UnsafePickle(f'{module}.{name}') from None

  def persistent_load(self, pid: Any) -> _Storage:
    """Returns the storage that a tensor views."""
    kind, key, count = pid[1], pid[2], pid[4]
    if pid[0] != 'storage' or not isinstance(kind, _StorageType):
      raise ValueError('it refers to an object that is not a tensor storage')
    if len(pid) > 5 and pid[5] is not None:
      raise ValueError('its storages are views of others')
    storage = _Storage(kind.name, str(key), int(count))
    return self.storages.setdefault(storage.key, storage)


def _storage_array(data: bytes, storage: _Storage, order: str) -> np.ndarray:
  dtype = _DTYPES[storage.type_name].newbyteorder(order)
  if len(data) != storage.length * dtype.itemsize:
    raise ValueError('its storages are not whole')
  return np.frombuffer(data, dtype)


def _read_zip(f: IO[bytes]) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns the saved object, and the arrays of its storages by their keys."""
  with zipfile.ZipFile(f) as archive:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith('data.pkl')]
    if len(pickles) != 1:
      raise ValueError('a zip archive that does not hold one data.pkl')
    prefix = pickles[0].removesuffix('data.pkl')
    order = '<'
    if f'{prefix}byteorder' in names:
      order = {b'little': '<', b'big': '>'}[archive.read(f'{prefix}byteorder')]
    unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
    loaded = unpickler.load()
    return loaded, {
      key: _storage_array(archive.read(f'{prefix}data/{key}'), storage, order)
      for key, storage in unpickler.storages.items()
    }


def _read_legacy(f: IO[bytes]) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns the saved object, and the arrays of its storages by their keys."""
  magic, _, system = (_Unpickler(f).load() for _ in range(3))
  if magic != _MAGIC_NUMBER:
    raise ValueError('its first number is not that of the format')
  order = '<' if system['little_endian'] else '>'
  unpickler = _Unpickler(f)
  loaded = unpickler.load()
  numbers = {}
  # The keys in their order in the file; each storage follows its length.
  for key in _Unpickler(f).load():
    storage = unpickler.storages[key]
    if f.read(8) != struct.pack(f'{order}q', storage.length):
      raise ValueError('its storages are not whole')
    data = f.read(storage.length * _DTYPES[storage.type_name].itemsize)
    numbers[key] = _storage_array(data, storage, order)
  return loaded, numbers


def _unwrap_state_dict(loaded: Any) -> dict[str, _Tensor]:
  """Returns the tensors of a state_dict or of a checkpoint that holds one."""
  if isinstance(loaded, Mapping):
    for key in _STATE_DICT_KEYS:
      if isinstance(loaded.get(key), Mapping):
        loaded = loaded[key]
        break
  if (
    not isinstance(loaded, Mapping)
    or not loaded
    or not all(isinstance(tensor, _Tensor) for tensor in loaded.values())
  ):
    raise ValueError(
      'it holds no dictionary of tensors, nor one under a key of '
      f'{_STATE_DICT_KEYS}'
    )
  names = [str(name) for name in loaded]
  if all(name.startswith('module.') for name in names):
    names = [name.removeprefix('module.') for name in names]
  return dict(zip(names, loaded.values(), strict=True))


def _strided_view(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
  """Returns the view of a tensor on the array of its storage."""
  _, offset, shape, strides = tensor
  if not all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides)):
    raise ValueError('its shapes and strides are not whole numbers')
  count = math.prod(shape)
  last = offset + sum(
    (n - 1) * stride for n, stride in zip(shape, strides, strict=True)
  )
  if not count:
    return np.zeros(shape, numbers.dtype)
  if max(last + 1, count) > numbers.size:
    raise ValueError('its tensors do not lie within their storages')
  return np.lib.stride_tricks.as_strided(
    numbers[offset:],
    shape,
    [stride * numbers.itemsize for stride in strides],
    writeable=False,
  )


def read_pth(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by name.

  A checkpoint that holds them under 'state_dict_ema', 'state_dict' or 'model'
  is unwrapped, and a prefix 'module.' of all names is dropped.

  Raises:
    ValueError: the file is damaged or has none of these formats; its pickle
      asks for more than tensors; or it holds no dictionary of tensors.
  """
  try:
    with open(path, 'rb') as f:
      archive = f.read(2) == b'PK'
      f.seek(0)
      loaded, numbers = _read_zip(f) if archive else _read_legacy(f)
    return {
      name: _strided_view(tensor, numbers[tensor.storage.key])
      for name, tensor in _unwrap_state_dict(loaded).items()
    }
  except _UnsafePickle as e:
    raise ValueError(
      f'{path} asks for {e}, which could run any program, or holds more than '
      'tensors; save the state_dict() alone, or as .safetensors'
    ) from None
  except OSError:
    raise
  # A damaged pickle may raise anything.
  except Exception as e:
    raise ValueError(
      f'{path} is not a whole .pth file of tensors ({e!r}); download it again, '
      'or save model.state_dict() in it'
    ) from e
