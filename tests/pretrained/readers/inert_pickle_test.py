"""Pickles are read without being run, in bounded time and memory."""

import argparse
import collections
import datetime
import decimal
import fractions
import functools
import io
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from deeplab.pretrained.readers import inert_pickle

PLAIN = {
  'none': None,
  'numbers': [0, 255, -1, 65535, 2**31, -(2**70), 1.5, True, False],
  'texts': ['', 'a', 'ä' * 300, 'a\nb', b'', b'x' * 300],
  'tuples': [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
  'nested': {'a': {'b': [{'c': ()}]}},
  'long': list(range(2500)),
}


@pytest.mark.parametrize('protocol', range(6))
def test_plain_values_are_those_of_pickle(protocol):
  content = pickle.dumps(PLAIN, protocol)
  assert pickle.loads(content) == PLAIN
  if protocol < 3:  # bytes are made by a call of _codecs.encode
    expected = dict(PLAIN, texts=PLAIN['texts'][:4])
    got = inert_pickle.load(io.BytesIO(content))
    got['texts'] = got['texts'][:4]
    assert got == expected
  else:
    assert inert_pickle.load(io.BytesIO(content)) == PLAIN


@pytest.mark.parametrize('protocol', range(6))
def test_shared_values_stay_shared_and_circles_end(protocol):
  shared = []
  value = [shared, shared]
  value.append(value)
  got = inert_pickle.load(io.BytesIO(pickle.dumps(value, protocol)))
  assert got[0] is got[1] and got[2] is got


def test_a_stream_is_left_after_the_pickle():
  stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps('b', 4) + b'rest')
  assert [inert_pickle.load(stream) for _ in range(2)] == [1, 'b']
  assert stream.read() == b'rest'


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize(
  ('value', 'name'),
  [
    (argparse.Namespace(a=1), 'argparse.Namespace'),
    (np.float32(1), 'numpy._core.multiarray.scalar'),
    (datetime.date(2020, 1, 1), 'datetime.date'),
    (decimal.Decimal(1), 'decimal.Decimal'),
    (fractions.Fraction(1, 2), 'fractions.Fraction'),
    (collections.deque([1]), 'collections.deque'),
    (collections.Counter('ab'), 'collections.Counter'),
    (functools.partial(os.mkdir, 'x'), 'functools.partial'),
    (os.getcwd, 'posix.getcwd'),
    ({1, 2}, 'builtins.set'),
    (frozenset([1, 2]), 'builtins.frozenset'),
  ],
)
def test_other_objects_are_inert(protocol, value, name):
  content = pickle.dumps({'x': value, 'y': 5}, protocol)
  got = inert_pickle.load(io.BytesIO(content))
  assert got['y'] == 5
  # Protocols below 2 rebuild objects by copyreg, below 4 sets by a call.
  assert got['x'].name in (
    *(name, name.replace('builtins', '__builtin__')),
    *('copyreg._reconstructor', 'copy_reg._reconstructor'),
  )
  assert vars(type(got['x'])).keys() <= {
    *('__module__', '__doc__', '__slots__', '__init__', '__repr__', 'name'),
  }


def test_only_the_given_functions_are_called():
  content = pickle.dumps(argparse.Namespace(a=1), 2)
  got = inert_pickle.load(
    io.BytesIO(content), {'argparse.Namespace': lambda *arguments: 'called'}
  )
  assert got == 'called'


NESTED = b''.join(b'q%ch%c\x86' % (i, i) for i in range(60))
# The multiples of 2**61 - 1 have the hash 0.
COLLIDING = b''.join(
  b'\x8a\x0b' + (i * (2**61 - 1)).to_bytes(11, 'little') + b'N'
  for i in range(1, 30000)
)


@pytest.mark.parametrize(
  'code',
  [
    b'\x80\x02})' + b'2\x86' * 60 + b'K\x01s.',
    b'\x80\x02})' + NESTED + b'K\x01s.',
    b'\x80\x04\x8f()' + b'2\x86' * 60 + b'\x90.',
    b'\x80\x02}(' + COLLIDING + b'u.',
    b'\x80\x02]r' + struct.pack('<I', 1 << 28) + b'.',
    b'\x80\x02' + b']' * 30000 + b'a' * 29999 + b'.',
    b'\x80\x02' + b')' + b'\x85' * 30000 + b'.',
    b'\x80\x02\x8b' + struct.pack('<I', 1 << 20) + bytes(1 << 20) + b'.',
  ],
  ids=[
    *('dup', 'memo', 'set', 'collisions', 'long_binput', 'lists', 'tuples'),
    'integer',
  ],
)
def test_hostile_programs_take_neither_time_nor_memory(code):
  tracemalloc.start()
  try:
    inert_pickle.load(io.BytesIO(code))
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < 32 << 20


@pytest.mark.parametrize(
  ('code', 'message'),
  [
    (b'N' * 1001, 'more than 1000 instructions'),
    (b'(' * 1001, 'more than 1000 instructions'),
    (b'\x8e' + struct.pack('<Q', 1 << 60), 'longer than 268435456 bytes'),
    (b'T' + struct.pack('<i', (1 << 28) + 1), 'longer than 268435456 bytes'),
    (b'\x8e' + struct.pack('<Q', 1 << 20), 'but only 0 remain'),
    (b']p4294967296\n.', '4294967296 as a number of its memo'),
    (b']p-1\n.', '-1 as a number of its memo'),
    (b'', 'pickle exhausted before seeing STOP'),
    (b'N', 'pickle exhausted before seeing STOP'),
    (b'.', 'takes values that it did not make'),
    (b'h\x05.', 'takes values that it did not make'),
    (b't.', 'takes values that it did not make'),
    (b'N\x87.', 'takes more values than there are'),
    (b'\xff.', r"opcode b'\\xff' unknown"),
    (b'NN\x93.', 'a name that is no text'),
    (b'N\x97.', 'the instruction NEXT_BUFFER'),
    (b'}(NNNu.', 'argument 2 is shorter'),
  ],
)
def test_damage_is_a_value_error(code, message, monkeypatch):
  monkeypatch.setattr(inert_pickle, 'MAX_INSTRUCTIONS', 1000)
  with pytest.raises(ValueError, match=message):
    inert_pickle.load(io.BytesIO(code))


def test_calls_may_not_copy_one_list_again_and_again(monkeypatch):
  monkeypatch.setattr(inert_pickle, 'MAX_INSTRUCTIONS', 1000)
  # A function gets a list of 100 items, 50 times.
  items = b'](' + b'N' * 100 + b'e'
  code = items + b'q\x00' + b'cm\nd\nh\x00\x85R' * 50 + b'.'
  called = []
  with pytest.raises(ValueError, match='more than 1000 instructions'):
    inert_pickle.load(io.BytesIO(code), {'m.d': called.append})
  assert 5 < len(called) < 9


def test_names_are_short_and_printable():
  assert inert_pickle.Inert('a\n' * 500).name == repr('a\n' * 50)
  assert inert_pickle.Inert('\ud800').name == "'\\ud800'"
