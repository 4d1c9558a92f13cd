"""Reads PaddlePaddle's .pdparams files without PaddlePaddle.

`paddle.save` pickles a dictionary of NumPy arrays by name. `inert_pickle` reads
it without running it: the functions by which NumPy rebuilds arrays are replaced
by ours. PaddlePaddle 2.1 and later write each array in a pair with the name of
its variable, and a table of these names beside the arrays.

The format is defined by `paddle/framework/io.py` and by `ndarray.__reduce__`.
"""

import math
import os
from typing import Any

import numpy as np

from deeplab.pretrained.readers import inert_pickle
from deeplab.pretrained.readers import limits

# NumPy's codes of the types that networks have.
_CODES = frozenset(['f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'b1'])
_MAX_RANK = 64


class _Dtype(inert_pickle.Stateful):
  """A `numpy.dtype`; its state has the byte order."""

  def __init__(self, code: Any = None, *_: Any):
    if code not in _CODES:
      raise ValueError(f'it holds an array of type {str(code)[:20]!r}')
    self.dtype = np.dtype(code)

  def set_state(self, state: Any) -> None:
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else ''
    if order not in ('<', '>', '|', '='):
      raise ValueError('the type of an array has no byte order')
    self.dtype = self.dtype.newbyteorder(order)


class _Array(inert_pickle.Stateful):
  """A `numpy.ndarray`: empty until its state is set."""

  def __init__(self, *_: Any):
    self.value: np.ndarray = np.zeros((0,), np.float32)

  def set_state(self, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) != 5:
      raise ValueError('an array of it has no shape, type and numbers')
    _, shape, dtype, fortran, content = state
    if (
      not isinstance(dtype, _Dtype)
      or not isinstance(content, bytes)
      or not isinstance(shape, tuple)
      or len(shape) > _MAX_RANK
      or not all(type(n) is int and n >= 0 for n in shape)
    ):
      raise ValueError('an array of it has no shape, type and numbers')
    if math.prod(shape) * dtype.dtype.itemsize != len(content):
      raise ValueError(
        'an array of it has fewer or more numbers than its shape'
      )
    flat = np.frombuffer(content, dtype.dtype)
    self.value = flat.reshape(shape, order='F' if fortran else 'C')


def _encode(text: Any = None, encoding: Any = None) -> bytes:
  """Replaces `codecs.encode`, by which Python 3 writes bytes in protocol 2."""
  if not isinstance(text, str) or encoding != 'latin1':
    raise ValueError('it holds bytes in an unknown encoding')
  return text.encode('latin1')


def _make_bytes(*arguments: Any) -> bytes:
  """Replaces `bytes`, by which protocol 2 writes no bytes at all."""
  if arguments:
    raise ValueError('it makes bytes of something else')
  return b''


def _make_pair(*arguments: Any) -> Any:
  """Replaces `tuple`: a variable's name and its array."""
  return arguments[0] if arguments else ()


_FUNCTIONS: dict[str, Any] = {
  'numpy.dtype': _Dtype,
  'numpy.core.multiarray._reconstruct': _Array,
  'numpy._core.multiarray._reconstruct': _Array,
  '_codecs.encode': _encode,
  'builtins.bytes': _make_bytes,
  '__builtin__.bytes': _make_bytes,
  'builtins.tuple': _make_pair,
  '__builtin__.tuple': _make_pair,
}


def _array_of(value: Any) -> np.ndarray | None:
  """Returns the array of an entry; None if it is no array."""
  if isinstance(value, tuple | list) and len(value) == 2:
    value = value[1]  # after the name of the variable
  return value.value if isinstance(value, _Array) else None


def read_pdparams(path: str) -> dict[str, np.ndarray]:
  """Returns the arrays of a file by name.

  Raises:
    ValueError: the file is damaged, or holds no dictionary of arrays.
  """
  size = os.path.getsize(path)
  with open(path, 'rb') as f:
    try:
      loaded = inert_pickle.load(f, _FUNCTIONS, max_bytes=size)
      arrays = {
        name: array
        for name, value in (loaded if isinstance(loaded, dict) else {}).items()
        if isinstance(name, str) and (array := _array_of(value)) is not None
      }
      # One array may be named many times.
      budget = limits.ByteBudget(size)
      for array in arrays.values():
        budget.spend(array.nbytes)
      if not arrays:
        raise ValueError('it holds no dictionary of arrays')
    # A damaged pickle may raise anything.
    except Exception as e:
      reason = str(e) if isinstance(e, ValueError) else repr(e)
      raise ValueError(
        f'{path} is not a whole .pdparams file ({reason}); download it again'
      ) from e
  return arrays
