"""Prepares a split in processes that are killed at a chosen event.

    python -m tests.data.preparation.killed CONFIG

CONFIG is a config as JSON. Each line of standard input has the number of an
event and a folder for the data. For each line a process prepares the training
split in that folder and kills itself at that event; the exit status is printed,
-9 if it was killed. If there are fewer events, their number is printed instead.

Events are each opening, renaming, making or removing of a file or folder below
the data, and each record that is generated or written. `locking_test` uses it.
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


def _prepare(config, kill_at):
  """Prepares until event `kill_at`; returns the number of events at the end."""
  count = 0

  def tick():
    nonlocal count
    if count == kill_at:
      os.kill(os.getpid(), signal.SIGKILL)
    count += 1

  def count_events(examples):
    for example in examples:
      tick()
      yield example

  def hook(event, arguments):
    if event in _EVENTS and str(arguments[0]).startswith(config.data.data_dir):
      tick()

  generate = records.generate_records
  records.generate_records = lambda *arguments: count_events(
    generate(*arguments)
  )
  writer = tfds.core.writer.ExampleWriter
  write = writer.write

  def write_counted(self, path, examples):
    write(self, path, count_events(examples))
    tick()

  writer.write = write_counted
  sys.addaudithook(hook)
  datasets.Dataset(config.data).prepare(config.data.train_split)
  return count


def main():
  """Reads event numbers and prints exit statuses."""
  config = ConfigDict(json.loads(sys.argv[1]))
  sys.stdout = sys.stderr  # for what tfds prints
  for line in sys.stdin:
    event, config.data.data_dir = line.rstrip('\n').split(' ', 1)
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
      os.write(theirs, str(_prepare(config, int(event))).encode())
      os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as stream:
      count = stream.read()
    _, status = os.waitpid(child, 0)
    print(count or -os.WTERMSIG(status), file=sys.__stdout__, flush=True)


if __name__ == '__main__':
  main()
