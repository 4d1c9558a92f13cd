r"""Opens thousands of damaged files as the product does, and counts the ends.

    python -m experiments.benchmarks.bad_inputs --trials=10000 --seed=0
    python -m experiments.benchmarks.bad_inputs --kinds=png,coco \
        --failures=FOLDER
    python -m experiments.benchmarks.bad_inputs --only=coco:1234

An input is a function of its seed, its kind and its number, so a failure is
repeated by --seed and --only. Every input must be accepted or refused in a
sentence that names its file, within 10 s and a bound of memory, and must start
nothing and write nothing. Otherwise the exit status is 1, and --failures
receives the files of each failed input with the traceback.
"""

import collections
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import pathlib
import queue
import sys
import tempfile
import time

from absl import app
from absl import flags

from deeplab import cli
from deeplab import system
from deeplab import text
from experiments import zoo_rows
from experiments.benchmarks.bad_inputs import input_kinds
from experiments.benchmarks.bad_inputs import trials

Found = list[tuple[trials.Trial, trials.Result]]


def plan_trials(
  count: int, seed: int, names: Sequence[str]
) -> list[trials.Trial]:
  """Returns `count` trials, as many of each kind up to one."""
  shares = [
    count // len(names) + (i < count % len(names)) for i in range(len(names))
  ]
  return [
    trials.Trial(name, number, seed)
    for name, share in zip(names, shares, strict=True)
    for number in range(share)
  ]


def run_trials(
  planned: Iterable[trials.Trial],
  kinds: Mapping[str, trials.Kind],
  limits: trials.Limits,
  processes: int,
  failures: pathlib.Path | None = None,
) -> Iterator[tuple[trials.Trial, trials.Result]]:
  """Runs trials in worker processes; yields results in the order of trials.

  Args:
    planned: the trials; those of one kind should follow each other.
    kinds: the kinds by name.
    limits: bounds of one trial.
    processes: number of workers.
    failures: folder that receives the files of failed inputs; None for none.
  """
  with tempfile.TemporaryDirectory() as folder:
    workers: queue.SimpleQueue[trials.Worker] = queue.SimpleQueue()
    for i in range(processes):
      workers.put(trials.Worker(kinds, limits, pathlib.Path(folder, str(i))))

    def run(trial: trials.Trial) -> tuple[trials.Trial, trials.Result]:
      worker = workers.get()
      try:
        result = worker.run(trial)
        if failures and result.outcome in trials.FAILURES:
          keep_input(failures, trial, result, worker.folder / 'input')
        return trial, result
      finally:
        workers.put(worker)

    try:
      with futures.ThreadPoolExecutor(processes) as pool:
        yield from pool.map(run, planned)
    finally:
      for _ in range(processes):
        workers.get().close()


def keep_input(
  failures: pathlib.Path,
  trial: trials.Trial,
  result: trials.Result,
  folder: pathlib.Path,
) -> None:
  """Copies the input of a failed trial to FAILURES/KIND/NUMBER.

  Args:
    failures: the folder of all failures.
    trial: the trial.
    result: its result; `failure.txt` has the line and the traceback.
    folder: the folder of the input.
  """
  target = failures / trial.kind / str(trial.number)
  files = trials.read_folder(folder)
  trials.write_folder(target / 'input', files)
  (target / 'failure.txt').write_text(
    f'{result.outcome}\n{result.line}\n\n{result.details}', 'utf-8'
  )


def format_table(found: Found) -> str:
  """Returns the counts of outcomes by kind as a Markdown table."""
  groups: dict[str, list[trials.Result]] = {}
  for trial, result in found:
    groups.setdefault(trial.kind, []).append(result)
  if len(groups) > 1:
    groups['all'] = [result for _, result in found]
  rows = []
  for name, results in groups.items():
    counts = collections.Counter(result.outcome for result in results)
    rows.append(
      (
        *(name, str(len(results))),
        *(str(counts[outcome]) for outcome in trials.OUTCOMES),
        f'{max(result.memory_bytes for result in results) / 2**20:.0f}',
        f'{max(result.seconds for result in results):.1f}',
      )
    )
  header = 'kind', 'tried', *trials.OUTCOMES, 'peak, MiB', 'slowest, s'
  return zoo_rows.markdown_table(header, rows)


def format_failures(found: Found) -> str:
  """Lists the failures, those of one place and type of error in one line."""
  groups: dict[tuple[str, ...], Found] = {}
  for trial, result in found:
    if result.outcome in trials.FAILURES:
      error = result.line.partition(':')[0]
      key = trial.kind, result.outcome, result.place, error
      groups.setdefault(key, []).append((trial, result))
  return '\n'.join(
    f'{outcome} x{len(group)} {place}: {group[0][1].line[:300]}\n'
    f'  --seed={group[0][0].seed} --only={group[0][0]}'
    for (_, outcome, place, _), group in groups.items()
  )


def _parse_trial(name: str, seed: int) -> trials.Trial:
  """Returns the trial of --only=KIND:NUMBER."""
  kind, _, number = name.partition(':')
  if kind not in input_kinds.KINDS or not number.isdigit():
    raise ValueError(
      f'--only={name} is not KIND:NUMBER; kinds are '
      f'{", ".join(input_kinds.KINDS)}'
    )
  return trials.Trial(kind, int(number), seed)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_integer(
    'trials', 10000, 'Number of inputs.', lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer('seed', 0, 'Seed of all inputs.', flag_values=values)
  flags.DEFINE_list(
    'kinds', [], 'Kinds of input; empty: all of them.', flag_values=values
  )
  flags.DEFINE_string(
    'only', None, 'Opens the one input KIND:NUMBER.', flag_values=values
  )
  flags.DEFINE_string(
    'failures', None, 'Folder for failed inputs.', flag_values=values
  )
  flags.DEFINE_integer(
    'processes',
    0,
    'Worker processes; 0: one for each core.',
    lower_bound=0,
    flag_values=values,
  )


def _run(values: flags.FlagValues) -> None:
  names = values.kinds or list(input_kinds.KINDS)
  unknown = sorted(set(names) - input_kinds.KINDS.keys())
  if unknown:
    raise ValueError(
      f'--kinds={",".join(unknown)}: kinds are {", ".join(input_kinds.KINDS)}'
    )
  planned = plan_trials(values.trials, values.seed, names)
  if values.only:
    planned = [_parse_trial(values.only, values.seed)]
  processes = min(values.processes or system.cpu_count(), len(planned))
  failures = pathlib.Path(values.failures) if values.failures else None
  start = time.perf_counter()
  results = run_trials(
    planned, input_kinds.KINDS, trials.Limits(), processes, failures
  )
  found = list(system.track_progress(results, len(planned), 'bad inputs'))
  seconds = time.perf_counter() - start
  print(format_table(found))
  print(
    f'{text.plural(len(found), "input")} of seed {values.seed} in '
    f'{seconds:.0f} s on {text.plural(processes, "process", "processes")}'
  )
  if values.only:
    print(found[0][1].details or found[0][1].line)
  print(format_failures(found))
  if any(result.outcome in trials.FAILURES for _, result in found):
    sys.exit(1)


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Runs the command; the exit status is 1 if an input failed."""
  cli.run_command(argv, lambda: _run(values))


if __name__ == '__main__':
  define_flags()
  app.run(main, flags_parser=cli.parse_flags)
