r"""Runs every combination of settings and seeds of a study.

    python -m experiments.sweep --workdir=runs/output_stride \
        --study=experiments/ablations/output_stride.py:smoke
    python -m experiments.sweep --study=... --workdir=W --jobs=2 -- \
        --config.data.root=CAMVID

Flags after `--` are passed to every run. The same command resumes an
interrupted sweep: finished runs are kept, others resume from their checkpoints,
and failed runs are tried again. A failed run leaves its error in W/errors and
its output in W/logs; the other runs continue. Several sweeps may share a work
directory: each run is executed by one of them.

    --print=shell   print the remaining commands as a shell script
    --print=slurm   print a job array for sbatch
    --print=tpu     print gcloud commands for all hosts of a TPU pod

`python -m experiments.tabulate --workdir=W` makes tables and plots of the
finished runs, at any time.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

from absl import app
from absl import flags
from absl import logging
import tqdm

from deeplab import cli
from deeplab import system
from deeplab import workdir as workdir_lib
from experiments import launchers
from experiments import study
from experiments import tabulate

_POLL_SECONDS = 0.5
_STOP_SECONDS = 60
_STEP = re.compile(rb'step (\d+)/(\d+)')


def build_command(run: study.Run, workdir: str, python: str) -> list[str]:
  """Returns the command of a run, to be started in the project's root."""
  line = [
    *(python, '-m', 'deeplab.main'),
    f'--workdir={tabulate.run_dir(workdir, run.id)}',
    *run.flags,
  ]
  if run.init_from:
    line.append(
      f'--config.init_from={tabulate.run_dir(workdir, run.init_from)}'
    )
  return line


def can_start(run: study.Run, workdir: str) -> bool:
  """Returns True if the run that provides the initial weights is finished."""
  return (
    not run.init_from
    or tabulate.read_run_record(workdir, run.init_from) is not None
  )


def _check_is_free(workdir: str) -> None:
  """Refuses a folder with files that a sweep would replace."""
  for name in ('runs', 'logs', 'errors', 'locks', 'table.md'):
    path = os.path.join(workdir, name)
    if os.path.lexists(path):
      raise ValueError(
        f'{path} exists, and a sweep would write there, but {workdir} is not '
        'the work directory of a sweep: choose another --workdir'
      )


def write_plan(
  ablation: study.Study, workdir: str, extra_flags: Sequence[str]
) -> list[study.Run]:
  """Writes the plan of the sweep (plan.json) and returns its runs.

  Raises:
    ValueError: the work directory holds runs of other configs.
  """
  runs = ablation.make_runs(extra_flags)
  hashes = {
    run.id: workdir_lib.config_hash(study.parse_config(run.flags))
    for run in runs
  }
  known = tabulate.read_plan(workdir)
  if known is None:
    _check_is_free(workdir)
  else:
    old = {run['id']: run['config_hash'] for run in known['runs']}
    other = sorted(
      name for name in old | hashes if old.get(name) != hashes.get(name)
    )
    if other:
      raise ValueError(
        f'{workdir} holds a sweep in which {", ".join(other[:3])} '
        f'{"have" if len(other) > 1 else "has"} another config or is absent; '
        'choose another --workdir'
      )
  described = {
    'study': ablation.title,
    'question': ablation.question,
    'reference': ablation.reference,
    'verdict': ablation.verdict,
    'config': ablation.base.config,
    'axes': {axis: list(settings) for axis, settings in ablation.grid.items()},
    'runs': [
      {
        'id': run.id,
        'labels': run.labels,
        'seed': run.seed,
        'config_hash': hashes[run.id],
      }
      for run in runs
    ],
  }
  system.write_text(
    tabulate.plan_path(workdir), json.dumps(described, indent=1) + '\n'
  )
  return runs


@dataclasses.dataclass
class _Job:
  """A run that this process has started."""

  run: study.Run
  process: subprocess.Popen
  log: str

  def fraction_done(self) -> float:
    """Returns the share of steps that its metrics log has reached."""
    with open(self.log, 'rb') as f:
      f.seek(0, os.SEEK_END)
      f.seek(max(f.tell() - 4096, 0))
      steps = _STEP.findall(f.read())
    return int(steps[-1][0]) / int(steps[-1][1]) if steps else 0.0


def _lock_run(workdir: str, run: study.Run) -> int | None:
  """Locks a run; returns the lock's file descriptor, None if it is held.

  The run inherits the descriptor. While it is alive, no other sweep starts it,
  even if its own sweep was killed.
  """
  path = os.path.join(workdir, 'locks', run.id)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  lock = os.open(path, os.O_RDWR | os.O_CREAT)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(lock)
    return None
  return lock


def _start_run(run: study.Run, workdir: str, lock: int) -> _Job:
  log = os.path.join(workdir, 'logs', f'{run.id}.log')
  os.makedirs(os.path.dirname(log), exist_ok=True)
  with open(log, 'wb') as f:
    process = subprocess.Popen(
      build_command(run, workdir, sys.executable),
      stdin=subprocess.DEVNULL,
      stdout=f,
      stderr=subprocess.STDOUT,
      pass_fds=(lock,),
      # Ctrl-C on the terminal reaches the sweep only, which passes it on.
      start_new_session=True,
    )
  return _Job(run, process, log)


def _finish_run(job: _Job, workdir: str) -> str | None:
  """Saves and returns the error of an ended run, None if it succeeded."""
  path = tabulate.error_path(workdir, job.run.id)
  if tabulate.read_run_record(workdir, job.run.id) is not None:
    with contextlib.suppress(FileNotFoundError):
      os.remove(path)
    return None
  with open(job.log, encoding='utf-8', errors='replace') as f:
    lines = [line.rstrip() for line in f if line.strip()]
  said = [line for line in lines if line.startswith('Error: ')] or lines[-1:]
  error = f'{said[-1] if said else "no output"} (status '
  error += f'{job.process.returncode}; {job.log})'
  system.write_text(path, error + '\n')
  return error


def _stop_jobs(jobs: Sequence[_Job]) -> None:
  """Terminates runs; each saves a checkpoint first."""
  for job in jobs:
    job.process.terminate()
  deadline = time.monotonic() + _STOP_SECONDS
  for job in jobs:
    try:
      job.process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
      job.process.kill()
      job.process.wait()


class _ProgressReporter:
  """Shows a progress bar, or log lines without a terminal, with the ETA."""

  def __init__(self, total: int, finished: int):
    self._total, self._first = total, finished
    self._began = time.monotonic()
    self._bar = tqdm.tqdm(
      total=total,
      initial=finished,
      disable=None,  # nothing is drawn where standard error is no terminal
      smoothing=0,  # logs speak in jumps: the time left is by the mean speed
      bar_format='{desc}{bar}| {n:.2f}/{total} runs [{elapsed}<{remaining}]',
    )

  def update(self, done: float) -> None:
    """Updates the bar; running runs count in part."""
    self._bar.update(max(done - self._bar.n, 0.0))

  def report_ended(self, run: study.Run, done: int, what: str) -> None:
    """Reports how a run ended."""
    spent = time.monotonic() - self._began
    left = spent / max(done - self._first, 1) * (self._total - done)
    with tqdm.tqdm.external_write_mode():
      logging.info(
        '%d/%d %s: %s; about %d minutes left',
        *(done, self._total, run.id, what, round(left / 60)),
      )

  def close(self) -> None:
    """Closes the progress bar."""
    self._bar.close()


def execute_runs(
  runs: Sequence[study.Run], workdir: str, max_jobs: int
) -> list[str]:
  """Executes the unfinished runs, `max_jobs` at a time.

  Args:
    runs: the result of `write_plan`.
    workdir: work directory of the sweep.
    max_jobs: number of concurrent runs.

  Returns:
    The ids of runs that failed.
  """
  waiting = [r for r in runs if tabulate.read_run_record(workdir, r.id) is None]
  going: list[_Job] = []
  failed: list[str] = []
  progress = _ProgressReporter(len(runs), len(runs) - len(waiting))
  elsewhere: set[str] = set()

  def ended(run: study.Run, what: str) -> None:
    done = len(runs) - len(waiting) - len(going)
    progress.report_ended(run, done, what)

  def begin() -> None:
    for run in list(waiting):
      if len(going) == max_jobs:
        return
      if not can_start(run, workdir):
        if run.init_from in failed:
          waiting.remove(run)
          failed.append(run.id)
          error = f'{run.init_from}, whose weights it starts from, failed'
          system.write_text(tabulate.error_path(workdir, run.id), error)
          ended(run, f'failed: {error}')
        continue
      lock = _lock_run(workdir, run)
      if lock is None:
        if run.id not in elsewhere:
          logging.info('%s is being run by another process', run.id)
        elsewhere.add(run.id)
        continue
      waiting.remove(run)
      try:
        if tabulate.read_run_record(workdir, run.id) is None:
          going.append(_start_run(run, workdir, lock))
        else:
          ended(run, 'finished by another process')
      finally:
        os.close(lock)  # the run has its own

  try:
    while waiting or going:
      begin()
      time.sleep(_POLL_SECONDS)
      for job in [j for j in going if j.process.poll() is not None]:
        going.remove(job)
        error = _finish_run(job, workdir)
        if error:
          failed.append(job.run.id)
        ended(job.run, f'failed: {error}' if error else 'finished')
      done = len(runs) - len(waiting) - len(going)
      progress.update(done + sum(job.fraction_done() for job in going))
  finally:
    _stop_jobs(going)
    progress.close()
  return failed


def _raise_interrupt(*_: Any) -> None:
  raise KeyboardInterrupt


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string(
    'study',
    None,
    'Page of experiments/ablations, optionally with ":variant".',
    flag_values=values,
  )
  flags.DEFINE_string(
    'workdir', None, 'Folder that gets all runs.', flag_values=values
  )
  flags.DEFINE_integer(
    'jobs', 1, 'Number of concurrent runs.', lower_bound=1, flag_values=values
  )
  flags.DEFINE_enum(
    'print',
    'none',
    ['none', *launchers.LAUNCHERS],
    'Print the remaining commands instead of running them.',
    flag_values=values,
  )


def _run(values: flags.FlagValues, extra: Sequence[str]) -> None:
  if not values.study or not values.workdir:
    raise ValueError(
      '--study and --workdir are needed, for example '
      '--study=experiments/ablations/output_stride.py:smoke --workdir=runs/os'
    )
  workdir = values.workdir
  ablation = study.load_study(values.study)
  runs = write_plan(ablation, workdir, extra)
  if values.print != 'none':
    left = [
      run for run in runs if tabulate.read_run_record(workdir, run.id) is None
    ]
    now = [
      build_command(run, workdir, 'python')
      for run in left
      if can_start(run, workdir)
    ]
    print(launchers.LAUNCHERS[values.print](ablation.title, now), end='')
    if len(now) < len(left):
      print(
        f'# {len(left) - len(now)} more start from the weights of these: ask '
        'again when they are done'
      )
    return
  signal.signal(signal.SIGTERM, _raise_interrupt)
  try:
    failed = execute_runs(runs, workdir, values.jobs)
  except KeyboardInterrupt:
    raise SystemExit('Stopped; the same command resumes the sweep.') from None
  print(tabulate.format_table(tabulate.collect_sweep(workdir)))
  if failed:
    raise SystemExit(
      f'{len(failed)} of {len(runs)} runs failed (see {workdir}/errors); the '
      'same command tries them again'
    )


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Runs the study or prints its commands."""
  extra = argv[1:]
  wrong = [argument for argument in extra if not argument.startswith('--')]
  if wrong:
    raise app.UsageError(f'unexpected arguments: {" ".join(wrong)}')
  cli.run_command(argv[:1], lambda: _run(values, extra))


if __name__ == '__main__':
  define_flags()
  app.run(main)
