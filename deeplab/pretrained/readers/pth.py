"""Reads PyTorch's .pth files without PyTorch.

There are two formats: the zip archive (PyTorch 1.6 and later) of a pickle and
one file per storage, and the older sequence of pickles followed by the
storages. A pickle is a program, which `inert_pickle` reads without running it:
tensors in dictionaries are rebuilt, anything else (the options of a training
program, its history) is left out.

The formats are defined by `torch/serialization.py` and `torch/_utils.py`.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import io
import math
import os
import struct
from typing import IO
from typing import Any
from typing import NamedTuple
import zipfile

from absl import logging
import ml_dtypes
import numpy as np

from deeplab.pretrained.readers import inert_pickle
from deeplab.pretrained.readers import limits

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
# preference: a moving average first, as the program evaluates it. mmengine's
# `ema_state_dict` is not among them: its `state_dict` holds the average.
_STATE_DICT_KEYS = (
  *('state_dict_ema', 'model_ema', 'ema'),
  *('state_dict', 'model_state_dict', 'model_state'),
  *('model', 'net', 'network', 'module', 'weights'),
)
# Beside the tensors of `torch.optim.swa_utils.AveragedModel`: a count.
_AVERAGE_COUNTER = 'n_averaged'


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


# Names that a message lists.
_MAX_SHOWN = 8

# NumPy's limit on the rank of an array.
_MAX_RANK = 64


def _rebuild_tensor(*arguments: Any) -> Any:
  """Replaces PyTorch's functions that rebuild tensors."""
  if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
    return inert_pickle.Inert('a tensor of an unknown storage')
  storage, offset, shape, strides = arguments[:4]
  for numbers in (shape, strides):
    if not isinstance(numbers, list | tuple) or len(numbers) > _MAX_RANK:
      raise ValueError('its shapes and strides are not whole numbers')
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(*arguments: Any) -> Any:
  """Replaces PyTorch's functions that rebuild parameters: the tensor."""
  return arguments[0] if arguments else inert_pickle.Inert('a parameter')


def _rebuild_dict(*arguments: Any) -> dict[str, Any]:
  """Replaces OrderedDict; Python 2 passes a list of [key, value]."""
  items = arguments[0] if arguments else []
  if not isinstance(items, list):
    return {}
  if not all(
    isinstance(item, list | tuple) and len(item) == 2 for item in items
  ):
    raise ValueError('its dictionary is not made of pairs')
  return {inert_pickle.as_key(key): value for key, value in items}


_FUNCTIONS: dict[str, Any] = {
  'collections.OrderedDict': _rebuild_dict,
  'torch._utils._rebuild_tensor': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils._rebuild_parameter': _rebuild_parameter,
  'torch._utils._rebuild_parameter_with_state': _rebuild_parameter,
  **{f'torch.{name}': _StorageType(name) for name in _DTYPES},
}


class _Storages(dict[str, _Storage]):
  """The storages that a pickle refers to, by their keys."""

  def load(self, pid: Any) -> Any:
    """Returns the storage that a persistent id names."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage':
      raise ValueError('it refers to an object that is not a tensor storage')
    _, kind, key, _, count, *view = pid
    if not isinstance(kind, _StorageType):
      return kind  # of numbers that are not read: its tensors are left out
    if view and view[0] is not None:
      raise ValueError('its storages are views of others')
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
      raise ValueError('its storages have no name or length')
    storage = _Storage(kind.name, key, count)
    if self.setdefault(key, storage) != storage:
      raise ValueError(f'its storage {key} has two types or lengths')
    return storage


def _load_pickle(f: IO[bytes]) -> tuple[Any, _Storages]:
  """Returns the value of a pickle, and the storages that it refers to."""
  storages = _Storages()
  return inert_pickle.load(f, _FUNCTIONS, storages.load), storages


def _dtype(storage: _Storage, order: str) -> np.dtype:
  return _DTYPES[storage.type_name].newbyteorder(order)


def _check_length(length: int, storage: _Storage) -> None:
  """Checks the bytes of a storage before they are read."""
  if length != storage.length * _DTYPES[storage.type_name].itemsize:
    raise ValueError('its storages are not whole')


def _read_zip(f: IO[bytes], size: int) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns the saved object, and the arrays of its storages by their keys."""
  with zipfile.ZipFile(f) as archive:
    limits.check_archive(archive, size)
    members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if name.endswith('data.pkl')]
    if len(pickles) != 1:
      raise ValueError('a zip archive that does not hold one data.pkl')
    prefix = pickles[0].removesuffix('data.pkl')
    order = '<'
    if f'{prefix}byteorder' in members:
      order = {b'little': '<', b'big': '>'}[archive.read(f'{prefix}byteorder')]
    if members[pickles[0]].file_size > inert_pickle.MAX_BYTES:
      raise ValueError('its data.pkl is too long')
    loaded, storages = _load_pickle(io.BytesIO(archive.read(pickles[0])))
    for key, storage in storages.items():
      _check_length(members[f'{prefix}data/{key}'].file_size, storage)
    return loaded, {
      key: np.frombuffer(
        archive.read(f'{prefix}data/{key}'), _dtype(storage, order)
      )
      for key, storage in storages.items()
    }


def _read_legacy(f: IO[bytes], size: int) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns the saved object, and the arrays of its storages by their keys."""
  magic, _, system = (_load_pickle(f)[0] for _ in range(3))
  if magic != _MAGIC_NUMBER:
    raise ValueError('its first number is not that of the format')
  order = '<' if system['little_endian'] else '>'
  loaded, storages = _load_pickle(f)
  numbers = {}
  # The keys in their order in the file; each storage follows its length.
  for key in _load_pickle(f)[0]:
    storage = storages[key]
    dtype = _dtype(storage, order)
    if f.read(8) != struct.pack(f'{order}q', storage.length):
      raise ValueError('its storages are not whole')
    length = storage.length * dtype.itemsize
    if length > size - f.tell():
      raise ValueError('its storages are not whole')
    numbers[key] = np.frombuffer(f.read(length), dtype)
  return loaded, numbers


def _describe(value: Any) -> str:
  """Returns the type of an entry of a file, such as 'argparse.Namespace'."""
  if isinstance(value, inert_pickle.Inert):
    return value.name
  return type(value).__name__


def _list_some(names: Sequence[str]) -> str:
  """Joins names for a message; long ones and the last of many are cut."""
  shown = ', '.join(repr(name[:80])[1:-1] for name in names[:_MAX_SHOWN])
  more = len(names) - _MAX_SHOWN
  return f'{shown} and {more} more' if more > 0 else shown


def _unwrap_state_dict(loaded: Any) -> tuple[dict[str, _Tensor], list[str]]:
  """Finds the state_dict of a file, or of the checkpoint that holds one.

  Returns:
    The tensors by name, and a description of each entry that is left out.
  """
  entries = loaded if isinstance(loaded, dict) else {}
  while not _tensors_of(entries):
    # Also {'model': {'state_dict': ...}}.
    inner = [k for k in _STATE_DICT_KEYS if isinstance(entries.get(k), dict)]
    if not inner:
      break
    entries = entries[inner[0]]
  tensors = _tensors_of(entries)
  if not tensors:
    held = (
      f'a dictionary of {_list_some([str(key) for key in entries])}'
      if entries
      else f'one {_describe(loaded)}'
    )
    raise ValueError(
      'it holds no dictionary of tensors, nor one under a key of '
      f'{_STATE_DICT_KEYS}, but {held}'
    )
  left_out = [
    f'{name} ({_describe(value)})'
    for name, value in entries.items()
    if name not in tensors
  ]
  tensors.pop(_AVERAGE_COUNTER, None)
  copies = _average_copies(tensors)
  if copies:
    left_out.append(
      f'{len(copies)} copies of parameters, {copies[0]} and so on'
    )
  return {k: v for k, v in tensors.items() if k not in copies}, left_out


def _tensors_of(entries: Mapping[str, Any]) -> dict[str, _Tensor]:
  """Returns the entries of a dictionary that are named tensors."""
  return {
    name: value
    for name, value in entries.items()
    if isinstance(name, str) and isinstance(value, _Tensor)
  }


def _average_copies(tensors: Mapping[str, _Tensor]) -> list[str]:
  """Returns the names of the second copy of parameters that mmcv 1 writes.

  Its moving average keeps 'ema_backbone_conv1_weight' beside
  'backbone.conv1.weight'. At the end of an epoch both are exchanged, so that
  the plain name holds the average in the file.
  """
  buffers = {f'ema_{name.replace(".", "_")}' for name in tensors}
  return [name for name in tensors if name in buffers]


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

  A checkpoint of a training program that holds them under a key, such as
  'state_dict' or 'model', is unwrapped. Entries of this dictionary that are no
  tensors, and second copies of parameters, are left out, with a warning.

  Raises:
    ValueError: the file is damaged, has none of these formats, or takes far
      more memory than its size; or it holds no dictionary of tensors.
  """
  size = os.path.getsize(path)
  with open(path, 'rb') as f:
    try:
      read = _read_zip if f.read(2) == b'PK' else _read_legacy
      f.seek(0)
      loaded, numbers = read(f, size)
      tensors, left_out = _unwrap_state_dict(loaded)
      arrays = {
        name: _strided_view(tensor, numbers[tensor.storage.key])
        for name, tensor in tensors.items()
      }
    # A damaged archive or pickle may raise anything.
    except Exception as e:
      reason = str(e) if isinstance(e, ValueError) else repr(e)
      raise ValueError(
        f'{path} is not a whole .pth file of tensors ({reason}); download it '
        'again, or save model.state_dict() in it'
      ) from e
  if left_out:
    logging.warning(
      '%s: left out what is no tensor of the network: %s',
      path,
      _list_some(left_out),
    )
  return arrays
