"""Readers that misbehave, in a module that workers import quickly."""

import ctypes
import functools
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np

from experiments.benchmarks.bad_inputs import trials


def _write(folder):
  (folder / 'a.txt').write_text('genuine\n')


def _open(folder, misbehave):
  """Accepts the genuine file; what it does to any other is given."""
  if (folder / 'a.txt').read_bytes() == b'genuine\n':
    return 'genuine'
  return misbehave(folder)


def _sentence(folder):
  raise ValueError(f'{folder / "a.txt"}: damaged; write it again')


def _nameless(folder):
  raise ValueError('Expecting value: line 1 column 1 (char 0)')


def _type_error(folder):
  raise TypeError('a.txt')


def _hang(folder):
  time.sleep(60)


def _eat(folder):
  return np.ones(10 * 2**20, np.float32).size


def _eat_much(folder):
  return np.ones(2**40, np.float32).size


def _crash(folder):
  ctypes.string_at(0)


def _write_outside(folder):
  pathlib.Path('stray.txt').write_text('x')


def _remove(folder):
  (folder / 'a.txt').unlink()


def _write_natively(folder):
  """Writes past the audit hook, as native libraries do."""
  libc = ctypes.CDLL(None)
  libc.close(libc.creat(b'stray.txt', 0o600))


def _run_program(folder):
  try:
    subprocess.run(['true'], check=True)
  except PermissionError:
    return 'swallowed'


def _evaluate(folder):
  return eval('1 + 1')


def _give_away(folder):
  return {'weight': np.fromfile('secret.txt', np.uint8)}


def _write_output(folder):
  path = os.path.join(os.environ['TMPDIR'], 'mask.png')
  pathlib.Path(path).write_text('x')
  with tempfile.TemporaryFile() as file:
    file.write(b'x')


MISBEHAVIORS = {
  'other': (_write_output,),
  'sentence': (_sentence,),
  'traceback': (_nameless, _type_error),
  'hang': (_hang,),
  'memory': (_eat, _eat_much),
  'crash': (_crash,),
  'wrote outside': (_write_outside, _remove, _write_natively),
  'read outside': (_give_away,),
  'executed': (_run_program, _evaluate),
}
KINDS = {
  function.__name__: trials.Kind(
    (_write,), '*', functools.partial(_open, misbehave=function)
  )
  for functions in MISBEHAVIORS.values()
  for function in functions
}
