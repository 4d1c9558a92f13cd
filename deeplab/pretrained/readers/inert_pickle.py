"""Reads pickles without running them.

A pickle is a program: it imports classes and functions by name and calls them.
Python's own unpickler can be restricted to some names, but even without any it
hashes nested tuples for ever, or allocates gigabytes for a memo of one entry.
This reader interprets the instructions, which `pickletools` decodes, into plain
values: None, numbers, text, bytes, lists, tuples and dictionaries. Whatever
else the program asks for becomes an `Inert` placeholder, which has the name and
nothing more. No name is ever looked up, so nothing is imported or called but
the functions that the caller passes.

Bounds: the number of instructions, the bytes, and integers of 128 bits. Keys of
dictionaries are texts; others become placeholders, because hashing what a file
composes takes as long as the file wants. Nothing recurses, so depth needs no
bound.

The instructions are documented in `pickletools`.
"""

from collections.abc import Callable
from collections.abc import Mapping
import pickletools
import types
from typing import IO
from typing import Any

# A checkpoint of 1,000 tensors has 40,000 instructions.
MAX_INSTRUCTIONS = 1 << 20
MAX_BYTES = 1 << 28
_INTEGER_BITS = 128
_MAX_NAME_CHARS = 100

# Instructions that push their decoded argument.
_VALUES = frozenset(
  [
    *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4'),
    *('FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING'),
    *('UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8'),
    *('SHORT_BINBYTES', 'BINBYTES', 'BINBYTES8', 'BYTEARRAY8'),
  ]
)


class Inert:
  """Stands for an object that is not rebuilt.

  Attributes:
    name: of the class or function that would make it, 'argparse.Namespace'.
  """

  __slots__ = ('name',)

  def __init__(self, name: str):
    short = name[:_MAX_NAME_CHARS]
    self.name = short if short.isprintable() else ascii(short)

  def __repr__(self) -> str:
    return self.name


class Stateful:
  """Base class of the values of a caller that receive a state."""

  def set_state(self, state: Any) -> None:
    """Receives what the pickle has for `__setstate__`."""
    raise NotImplementedError


class _BoundedStream:
  """A stream of which no more than `limit` bytes are read."""

  def __init__(self, stream: IO[bytes], limit: int):
    self._stream = stream
    self._limit = self._left = limit

  def _spend(self, count: int) -> None:
    self._left -= count
    if self._left < 0:
      raise ValueError(f'its pickle is longer than {self._limit} bytes')

  def read(self, count: int) -> bytes:
    """Reads `count` bytes, fewer at the end of the stream."""
    self._spend(count)
    return self._stream.read(count)

  def readline(self) -> bytes:
    """Reads up to and including the next newline."""
    line = self._stream.readline(self._left + 1)
    self._spend(len(line))
    return line


class _Machine:
  """The stack and the memo of one pickle."""

  def __init__(
    self,
    functions: Mapping[str, Any],
    load_persistent: Callable[[Any], Any],
  ):
    self._functions = functions
    self._load_persistent = load_persistent
    self._stack: list[Any] = []
    self._marked: list[list[Any]] = []  # the stacks below each mark
    self._memo: dict[int, Any] = {}
    self._left = MAX_INSTRUCTIONS

  def _spend(self, count: int) -> None:
    self._left -= count
    if self._left < 0:
      raise ValueError(
        f'its pickle has more than {MAX_INSTRUCTIONS} instructions'
      )

  def _pop_mark(self) -> list[Any]:
    """Returns the values above the last mark, and removes them and it."""
    values, self._stack = self._stack, self._marked.pop()
    return values

  def _call(self, function: Any, arguments: Any) -> Any:
    """Calls an allowed function; returns a placeholder for any other."""
    if not callable(function):
      return function if isinstance(function, Inert) else Inert('a call')
    if not isinstance(arguments, tuple):
      raise ValueError('its pickle calls a function without arguments')
    # A function may copy its arguments, such as the items of a dictionary.
    self._spend(sum(len(x) for x in arguments if isinstance(x, list | tuple)))
    return function(*arguments)

  def run(self, stream: IO[bytes], limit: int) -> Any:
    """Returns the value that the program leaves."""
    bounded: Any = _BoundedStream(stream, limit)
    for opcode, argument, _ in pickletools.genops(bounded):
      self._spend(1)
      name = opcode.name
      if name == 'STOP':
        return self._stack.pop()
      if name in _VALUES:
        self._stack.append(_bounded_integer(argument))
      elif name in _METHODS:
        _METHODS[name](self, argument)
      elif name not in ('PROTO', 'FRAME'):
        raise ValueError(f'its pickle has the instruction {name}')
    raise ValueError('its pickle does not end')

  # The stack, the mark and the memo.

  def _mark(self, _: Any) -> None:
    self._marked.append(self._stack)
    self._stack = []

  def _pop(self, _: Any) -> None:
    if self._stack:
      self._stack.pop()
    else:
      self._pop_mark()

  def _dup(self, _: Any) -> None:
    self._stack.append(self._stack[-1])

  def _put(self, index: int) -> None:
    if not 0 <= index < 1 << 32:
      raise ValueError(f'its pickle has {index} as a number of its memo')
    self._memo[index] = self._stack[-1]

  def _memoize(self, _: Any) -> None:
    self._memo[len(self._memo)] = self._stack[-1]

  def _get(self, index: int) -> None:
    self._stack.append(self._memo[index])

  # Containers.

  def _tuple(self, count: int) -> None:
    if len(self._stack) < count:
      raise ValueError('its pickle takes more values than there are')
    self._stack[-count:] = [tuple(self._stack[-count:])]

  def _marked_tuple(self, _: Any) -> None:
    items = tuple(self._pop_mark())
    self._stack.append(items)

  def _marked_list(self, _: Any) -> None:
    items = self._pop_mark()
    self._stack.append(items)

  def _marked_dict(self, _: Any) -> None:
    items = self._pop_mark()
    self._stack.append({})
    self._insert(items)

  def _frozenset(self, _: Any) -> None:
    self._pop_mark()
    self._stack.append(Inert('builtins.frozenset'))

  def _insert(self, items: list[Any]) -> None:
    """Stores alternating keys and values in the dictionary on the stack."""
    target = self._stack[-1]
    if isinstance(target, dict):
      for key, value in zip(items[::2], items[1::2], strict=True):
        target[as_key(key)] = value

  def _extend(self, items: list[Any]) -> None:
    """Adds items to the list on the stack."""
    target = self._stack[-1]
    if isinstance(target, list):
      target.extend(items)

  def _take(self, count: int) -> list[Any]:
    items = self._stack[-count:]
    del self._stack[-count:]
    return items

  # Names and calls.

  def _global(self, module: str, name: str) -> Any:
    name = f'{module}.{name}'
    return self._functions.get(name) or Inert(name)

  def _load_global(self, names: str) -> None:
    self._stack.append(self._global(*names.split(' ', 1)))

  def _stack_global(self, _: Any) -> None:
    module, name = self._stack.pop(-2), self._stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
      raise ValueError('its pickle has a name that is no text')
    self._stack.append(self._global(module, name))

  def _instance(self, names: str) -> None:
    arguments = tuple(self._pop_mark())
    function = self._global(*names.split(' ', 1))
    self._stack.append(self._call(function, arguments))

  def _object(self, _: Any) -> None:
    function, *arguments = self._pop_mark()
    self._stack.append(self._call(function, tuple(arguments)))

  def _reduce(self, _: Any) -> None:
    arguments = self._stack.pop()
    self._stack.append(self._call(self._stack.pop(), arguments))

  def _new_with_keywords(self, _: Any) -> None:
    self._stack.pop()
    self._reduce(None)

  def _build(self, _: Any) -> None:
    """Gives its state to a `Stateful` value; any other has none."""
    state = self._stack.pop()
    if isinstance(self._stack[-1], Stateful):
      self._stack[-1].set_state(state)

  def _persistent(self, key: Any) -> None:
    self._stack.append(self._load_persistent(key))


def _push(make: Callable[[Any], Any]) -> Callable[[_Machine, Any], None]:
  """Returns the method of an instruction that pushes one value."""
  return lambda machine, argument: machine._stack.append(make(argument))


_METHODS: dict[str, Callable[[_Machine, Any], Any]] = {
  'NONE': _push(lambda _: None),
  'NEWTRUE': _push(lambda _: True),
  'NEWFALSE': _push(lambda _: False),
  'EMPTY_TUPLE': _push(lambda _: ()),
  'EMPTY_LIST': _push(lambda _: []),
  'EMPTY_DICT': _push(lambda _: {}),
  'EMPTY_SET': _push(lambda _: Inert('builtins.set')),
  **{
    name: _push(lambda number: Inert(f'extension {number}'))
    for name in ('EXT1', 'EXT2', 'EXT4')
  },
  'MARK': _Machine._mark,
  'POP': _Machine._pop,
  'POP_MARK': lambda machine, _: machine._pop_mark(),
  'DUP': _Machine._dup,
  **dict.fromkeys(('PUT', 'BINPUT', 'LONG_BINPUT'), _Machine._put),
  'MEMOIZE': _Machine._memoize,
  **dict.fromkeys(('GET', 'BINGET', 'LONG_BINGET'), _Machine._get),
  'TUPLE1': lambda machine, _: machine._tuple(1),
  'TUPLE2': lambda machine, _: machine._tuple(2),
  'TUPLE3': lambda machine, _: machine._tuple(3),
  'TUPLE': _Machine._marked_tuple,
  'LIST': _Machine._marked_list,
  'DICT': _Machine._marked_dict,
  'FROZENSET': _Machine._frozenset,
  'SETITEM': lambda machine, _: machine._insert(machine._take(2)),
  'SETITEMS': lambda machine, _: machine._insert(machine._pop_mark()),
  'APPEND': lambda machine, _: machine._extend(machine._take(1)),
  'APPENDS': lambda machine, _: machine._extend(machine._pop_mark()),
  'ADDITEMS': lambda machine, _: machine._pop_mark(),
  'GLOBAL': _Machine._load_global,
  'STACK_GLOBAL': _Machine._stack_global,
  'INST': _Machine._instance,
  'OBJ': _Machine._object,
  **dict.fromkeys(('REDUCE', 'NEWOBJ'), _Machine._reduce),
  # Keyword arguments make no plain value.
  'NEWOBJ_EX': _Machine._new_with_keywords,
  'BUILD': _Machine._build,
  'PERSID': _Machine._persistent,
  'BINPERSID': lambda machine, _: machine._persistent(machine._stack.pop()),
}


def _bounded_integer(value: Any) -> Any:
  """Replaces an integer that is too large to compute with."""
  if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
    return Inert('builtins.int')
  return value


def as_key(key: Any) -> Any:
  """Returns a key that is safe to hash: a text, or a placeholder.

  Texts are hashed with a random seed. A file could choose integers that all
  have the same hash, or nest a tuple so that hashing it never ends.
  """
  return key if isinstance(key, str) else Inert(f'{type(key).__name__} key')


def load(
  stream: IO[bytes],
  functions: Mapping[str, Any] = types.MappingProxyType({}),
  load_persistent: Callable[[Any], Any] = lambda key: Inert('persistent id'),
  max_bytes: int = MAX_BYTES,
) -> Any:
  """Reads one pickle from a stream.

  Args:
    stream: binary; it is left after the pickle.
    functions: values of the names that the pickle may use, by 'module.name'.
      Those that can be called get whatever arguments the pickle has.
    load_persistent: returns the value of a persistent id.
    max_bytes: bytes of the stream that may be read.

  Raises:
    ValueError: the pickle is damaged, or exceeds the bounds.
  """
  try:
    return _Machine(functions, load_persistent).run(stream, max_bytes)
  except (IndexError, KeyError) as e:
    raise ValueError('its pickle takes values that it did not make') from e
