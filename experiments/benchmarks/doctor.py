r"""Measures the time of the doctor on many pairs of images and masks.

    python -m experiments.benchmarks.doctor --config.data.root=CAMVID

The pairs of a folder's training split are repeated until there are enough, and
`python -m deeplab.doctor` examines that list: every pair is read, decoded and
compared with all others. After the first pass the files are in the file system
cache, which need not be so for a data set that is read once.

README.md has results.
"""

import itertools
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any
from typing import NamedTuple

from absl import app
from absl import flags
from ml_collections import config_flags

from deeplab import cli
from deeplab import system
from deeplab.data.builders import folder


class RunCost(NamedTuple):
  """Cost of one run.

  Attributes:
    seconds: wall time.
    processor_seconds: processor time of all processes.
    pairs: number of training pairs that the doctor reports.
  """

  seconds: float
  processor_seconds: float
  pairs: int


def _children_processor_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def measure_doctor(
  config: str, data: Any, pairs: int, processes: int
) -> RunCost:
  """Runs the doctor on `pairs` pairs of a folder's training split.

  Args:
    config: path of the config.
    data: `config.data` with `root`; the evaluation split is examined unchanged.
    pairs: number of pairs.
    processes: number of worker processes; 0: one per core.

  Raises:
    RuntimeError: the doctor failed.
    ValueError: the folder lacks the splits.
  """
  with tempfile.TemporaryDirectory() as temporary:
    for split in (data.train_split, data.eval_split):
      found = folder.find_examples(data, split)
      count = pairs if split == data.train_split else len(found)
      lines = (
        f'{one.image}\t{one.annotation}\n'
        for one in itertools.islice(itertools.cycle(found), count)
      )
      listing = pathlib.Path(temporary) / f'{split}.txt'
      listing.write_text(''.join(lines), 'utf-8')
    before, start = _children_processor_seconds(), time.perf_counter()
    done = subprocess.run(
      [
        *(sys.executable, '-m', 'deeplab.doctor', f'--config={config}'),
        f'--config.data.root={temporary}',
        f'--processes={processes}',
      ],
      cwd=os.path.join(os.path.dirname(__file__), '..', '..'),
      stdout=subprocess.PIPE,
      text=True,
      check=False,
    )
    cost = time.perf_counter() - start, _children_processor_seconds() - before
  if 'training' not in done.stdout:
    raise RuntimeError(f'the doctor ended with status {done.returncode}')
  return RunCost(*cost, int(done.stdout.split()[1]))


_READ_FIELDS = cli.ReadFields(('data.root',))


def define_flags(values: flags.FlagValues = flags.FLAGS) -> flags.FlagHolder:
  """Defines the command's flags; importing this module defines none.

  Returns:
    The flag --config.
  """
  flags.DEFINE_integer('pairs', 12000, 'Number of pairs.', flag_values=values)
  flags.DEFINE_integer(
    'processes', 0, 'Worker processes; 0: one per core.', flag_values=values
  )
  return config_flags.DEFINE_config_file(
    'config',
    os.path.join('configs', 'camvid_mnv2.py'),
    'Experiment on a folder.',
    flag_values=values,
  )


def _run(config_flag: flags.FlagHolder) -> None:
  config: Any = cli.config_from_flag(config_flag, reads=_READ_FIELDS)
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  cost = measure_doctor(
    path, config.data, flags.FLAGS.pairs, flags.FLAGS.processes
  )
  each = 1000 * cost.processor_seconds / cost.pairs
  print(
    f'{cost.pairs} pairs: {cost.seconds:.1f} s on '
    f'{flags.FLAGS.processes or system.cpu_count()} processes, {each:.1f} ms '
    'of processor time a pair'
  )


def main(argv: list[str], config_flag: flags.FlagHolder) -> None:
  """Prints the cost."""
  cli.run_command(argv, lambda: _run(config_flag))


if __name__ == '__main__':
  _config_flag = define_flags()
  app.run(lambda argv: main(argv, _config_flag), flags_parser=cli.parse_flags)
