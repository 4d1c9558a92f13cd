"""Prepares a split and kills itself at a moment; see `preparing_test`.

    python -m tests.data.killed CONFIG

reads a config in JSON, and from standard input the number of a moment and a
folder for the data a line. For each it starts a process that prepares and is
killed at that moment, and prints how that ended: -9 if it was killed. Where
there is no such moment, it prints the number of moments there were.

A moment is any opening, renaming, making or removing of a file or a folder
below the data, and any record that is made or written.
"""

import json
import os
import signal
import sys

from ml_collections import ConfigDict
import tensorflow_datasets as tfds

from deeplab.data import datasets
from deeplab.data.preparation import records

_EVENTS = ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir')


def _prepare(config, moment):
  """Returns the number of moments, if it lives to see the end."""
  seen = 0

  def tick():
    nonlocal seen
    if seen == moment:
      os.kill(os.getpid(), signal.SIGKILL)
    seen += 1

  def ticking(examples):
    for example in examples:
      tick()
      yield example

  def hook(event, arguments):
    if event in _EVENTS and str(arguments[0]).startswith(config.data.data_dir):
      tick()

  generate = records.generate_records
  records.generate_records = lambda *arguments: ticking(generate(*arguments))
  writer = tfds.core.writer.ExampleWriter
  write = writer.write

  def written(self, path, examples):
    write(self, path, ticking(examples))
    tick()

  writer.write = written
  sys.addaudithook(hook)
  datasets.Dataset(config.data).prepare(config.data.train_split)
  return seen


def main():
  """Reads moments and prints outcomes."""
  config = ConfigDict(json.loads(sys.argv[1]))
  sys.stdout = sys.stderr  # tfds' own words
  for line in sys.stdin:
    moment, config.data.data_dir = line.rstrip('\n').split(' ', 1)
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
      os.write(theirs, str(_prepare(config, int(moment))).encode())
      os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as stream:
      count = stream.read()
    _, status = os.waitpid(child, 0)
    print(count or -os.WTERMSIG(status), file=sys.__stdout__, flush=True)


if __name__ == '__main__':
  main()
