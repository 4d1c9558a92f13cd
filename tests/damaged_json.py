"""Damages of JSON files, each value of which is damaged in every way."""

import copy
import json

# Values in place of another; those of the same kind are left out.
OTHERS = (None, True, 'text', 12.5, 1e300, -(10**30), [], {}, [[1]], {'x': 1})


def _places(value, place=()):
  """Yields the keys that lead to every value, sections included."""
  items = ()
  if isinstance(value, dict):
    items = value.items()
  elif isinstance(value, list):
    items = enumerate(value[:2])
  for key, item in items:
    yield (*place, key)
    yield from _places(item, (*place, key))


def _changed(value, place, change):
  """Returns a copy in which `change(container, key)` was called."""
  copied = copy.deepcopy(value)
  container = copied
  for key in place[:-1]:
    container = container[key]
  change(container, place[-1])
  return copied


def damages(value):
  """Yields (name, content of the file) of a damaged JSON file.

  Args:
    value: the value in the sound file.
  """

  def delete(container, key):
    del container[key]

  for place in _places(value):
    name = '.'.join(map(str, place))
    yield f'{name} deleted', json.dumps(_changed(value, place, delete)).encode()
    original = value
    for key in place:
      original = original[key]
    for other in (*OTHERS, [original], {'nested': original}):
      changed = _changed(
        value, place, lambda c, k, other=other: c.__setitem__(k, other)
      )
      shown = f'{name} = {json.dumps(other)[:30]}'
      yield shown, json.dumps(changed).encode()
  whole = json.dumps(value, indent=2).encode()
  for length in range(0, len(whole) - 1, max(len(whole) // 20, 1)):
    yield f'the first {length} bytes', whole[:length]
  for other in (*OTHERS, 3):
    yield f'{other!r} alone', json.dumps(other).encode()
  yield 'bytes', b'\x93NUMPY\xff\xfe' * 20
  yield 'no number', whole.replace(b'1', b'NaN', 1)
  yield 'deep', b'[' * 100_000
  yield 'long number', b'{"seed": ' + b'9' * 10_000 + b'}'
