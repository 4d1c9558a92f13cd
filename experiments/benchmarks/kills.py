r"""Kills commands at drawn moments, and counts what is left behind.

    python -m experiments.benchmarks.kills --seed=0
    python -m experiments.benchmarks.kills --trials=train:10,damage:5 \
        --workdir=FOLDER

Each trial starts a command in a process of its own and ends it by SIGKILL. Then
the folder must hold nothing half-written, and the same command, run until it
ends, must leave the bytes of one that nobody disturbed:

    train      resumes in the same work directory, over several kills; two
               thirds of them fall into saves and evaluations
    prepare    prepares the same raw images in the same folder again
    sweep      finishes a study of two runs with the same table and weights;
               half of the kills spare the run that the sweep has started
    export     writes the same .tflite file again
    predict    writes the same masks again

Two kinds of trial kill nothing:

    twice      two trainings in one work directory: one of them is refused
    damage     a training whose newest checkpoint, or all of them, lost a file
               or a bit: it goes on from the one before, or says one sentence

Processes are forked from one that has imported everything and used nothing, so
that a trial takes seconds. With --workdir the campaign goes on after a stop.
README.md has results.
"""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from configs import shapes_mnv2
from configs.recipes import folder
from deeplab import cli
from deeplab import evaluate
from deeplab import main as main_lib
from deeplab import predict
from deeplab import text
from deeplab import train
from deeplab import workdir as workdir_lib
from deeplab.data import datasets
from deeplab.files import output_files
from deeplab.models import registry
from deeplab.training import checkpoint_files
from deeplab.training import checkpoints
from experiments import study
from experiments import sweep
from experiments import tabulate
from export import pipeline
from export import request as request_lib
from export import source as source_lib

_TRAIN_STEPS = 24
_TRAIN_IMAGES = 16
_EVAL_IMAGES = 6
_PREDICT_IMAGES = 24
_SIZE = 65
_CLASSES = 3
# Phases that a process reports; the first one begins with its work.
_START, _SAVE, _EVALUATE, _END = b's', b'v', b'e', b'x'
_DONE, _FAILED = 0, 1
_TIMEOUT_SECONDS = 600.0
_PACKAGES = 'jax', 'orbax-checkpoint', 'tensorstore', 'tensorflow-datasets'


@dataclasses.dataclass(frozen=True)
class Kill:
  """A drawn moment.

  Attributes:
    phase: kind of the phase that it falls into.
    count: which one of that kind in the process, from 0.
    delay: time from its begin, in seconds.
    group: the processes that the process has started are killed, too.
  """

  phase: bytes
  count: int
  delay: float
  group: bool = True


@dataclasses.dataclass(frozen=True)
class Ending:
  """The end of a process.

  Attributes:
    killed: True if it was killed, False if it ended before that.
    status: its exit status, negative for a signal.
    phases: (phase, seconds from the start) in their order.
    seconds: its duration.
  """

  killed: bool
  status: int
  phases: tuple[tuple[bytes, float], ...]
  seconds: float


_phase_pipe: int | None = None  # in a forked process, leads to its parent


class Process:
  """A function that runs in a forked process, until it ends or is killed."""

  def __init__(self, work: Callable[[], Any], log: pathlib.Path):
    """Starts it.

    Args:
      work: the function; `_report` in it reports phases.
      log: file that its output is appended to.
    """
    self._log = log
    self._receiver, sender = os.pipe()
    self._began = time.monotonic()
    self.pid = os.fork()
    if not self.pid:
      os.close(self._receiver)
      _run_child(work, log, sender)
    os.close(sender)

  def wait(self, kill: Kill | None = None) -> Ending:
    """Waits for the end.

    Args:
      kill: a moment to kill it; None lets it end.

    Raises:
      RuntimeError: it does not end.
    """
    phases: list[tuple[bytes, float]] = []
    limit = _TIMEOUT_SECONDS
    due = False
    while True:
      now = time.monotonic() - self._began
      if now >= limit:
        if kill and not kill.group:
          os.kill(self.pid, signal.SIGKILL)
        else:
          os.killpg(self.pid, signal.SIGKILL)
        break
      if not select.select([self._receiver], [], [], limit - now)[0]:
        continue
      phase = os.read(self._receiver, 1)
      if not phase:
        break
      phases.append((phase, time.monotonic() - self._began))
      count = sum(p == phase for p, _ in phases)
      if kill and (phase, count) == (kill.phase, kill.count + 1):
        limit, due = phases[-1][1] + kill.delay, True
    status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
    os.close(self._receiver)
    seconds = time.monotonic() - self._began
    if status == -signal.SIGKILL and not due:
      raise RuntimeError(f'no end in {limit:.0f} s; see {self._log}')
    return Ending(status == -signal.SIGKILL, status, tuple(phases), seconds)


def run_and_kill(
  work: Callable[[], Any], log: pathlib.Path, kill: Kill | None = None
) -> Ending:
  """Runs a function in a forked process, and kills it at a moment.

  Args:
    work: the function; `_report` in it reports phases.
    log: file that its output is appended to.
    kill: the moment; None lets it end.
  """
  return Process(work, log).wait(kill)


def _report(phase: bytes) -> None:
  """Reports to the parent that a phase begins."""
  if _phase_pipe is not None:
    with contextlib.suppress(BrokenPipeError):  # of a run whose sweep died
      os.write(_phase_pipe, phase)


def _run_child(work: Callable[[], Any], log: pathlib.Path, sender: int) -> None:
  """Runs a function in the forked process, and ends it."""
  global _phase_pipe
  _phase_pipe = sender
  os.setpgid(0, 0)
  with open(log, 'ab') as output:
    _run_and_exit(work, output.fileno())


def _run_and_exit(work: Callable[[], Any], output: int) -> None:
  """Runs a function as a command is run, and ends the process.

  Args:
    work: the function.
    output: descriptor for the standard output and error.
  """
  status = _FAILED
  try:
    os.dup2(output, 1)
    os.dup2(output, 2)
    _report(_START)
    cli.run_command(['kills'], work)
    _report(_END)
    status = _DONE
  except SystemExit as error:
    print(error, file=sys.stderr)
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def ask(work: Callable[[], Any], log: pathlib.Path) -> Any:
  """Returns the JSON value of a function that runs in a forked process."""
  with tempfile.TemporaryDirectory() as folder_path:
    answer = pathlib.Path(folder_path, 'answer.json')
    ending = run_and_kill(lambda: answer.write_text(json.dumps(work())), log)
    if ending.status != _DONE:
      raise RuntimeError(f'{log} has the error of a check')
    return json.loads(answer.read_text())


# What is visible.


def _list_files(folder_path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the visible files of a folder; not those of Orbax and tfds."""
  return [
    path
    for path in sorted(folder_path.rglob('*'))
    if path.is_file()
    and not any(
      part.startswith(('.', 'incomplete.')) or part == 'checkpoints'
      for part in path.relative_to(folder_path).parts
    )
  ]


def hash_folder(folder_path: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of the visible files of a folder by relative paths."""
  return {
    str(path.relative_to(folder_path)): output_files.hash_file(str(path))
    for path in _list_files(folder_path)
  }


def find_half_written(folder_path: pathlib.Path) -> list[str]:
  """Returns the visible files that cannot be read; hidden ones are not.

  A record of metrics may end in half a line, which the next run drops.
  """
  wrong = []
  for path in _list_files(folder_path):
    try:
      if path.suffix == '.json':
        json.loads(path.read_text('utf-8'))
      elif path.suffix in ('.png', '.jpg'):
        with Image.open(path) as image:
          image.load()
    except FileNotFoundError:  # a run of a killed sweep goes on
      continue
    except (OSError, ValueError) as error:
      wrong.append(f'{path.relative_to(folder_path)}: {error}')
  return wrong


def find_other_content(
  folder_path: pathlib.Path, wanted: dict[str, str]
) -> list[str]:
  """Returns the visible files that an undisturbed command did not leave so.

  Args:
    folder_path: the folder.
    wanted: SHA-256 by path of the files that must not be seen otherwise.
  """
  return [
    f'{name}: other content'
    for name, digest in hash_folder(folder_path).items()
    if name in wanted and wanted[name] != digest
  ]


def find_damaged_checkpoints(workdir: pathlib.Path) -> list[str]:
  """Returns the complete checkpoints of a run that cannot be read."""
  wrong = []
  directory = workdir_lib.checkpoint_dir(str(workdir))
  for step in checkpoint_files.saved_steps(directory):
    try:
      checkpoint_files.read_items(os.path.join(directory, str(step)))
    except (OSError, ValueError) as error:
      wrong.append(f'step {step}: {error}')
  return wrong


def find_leftovers(folder_path: pathlib.Path) -> list[str]:
  """Returns temporary files and folders that nobody will remove.

  They are hidden, or named by tfds and Orbax; `.config` is part of a data set,
  and the list of written files is part of an output folder.
  """
  return [
    str(path.relative_to(folder_path))
    for path in sorted(folder_path.rglob('*'))
    if (
      path.name.startswith('.')
      and path.name not in ('.config', output_files.MANIFEST)
    )
    or path.name.startswith('incomplete.')
    or 'orbax-checkpoint-tmp' in path.name
  ]


def hash_checkpoint(workdir: pathlib.Path) -> dict[str, str]:
  """Returns the digests of the newest checkpoint of a run."""
  directory = workdir_lib.checkpoint_dir(str(workdir))
  step = checkpoint_files.saved_steps(directory)[-1]
  record, _ = checkpoint_files.read_items(os.path.join(directory, str(step)))
  digests = {k: v for k, v in record.digests.items() if k != 'record'}
  return {'step': str(step), **digests}


# The commands.


def _write_images(root: pathlib.Path) -> None:
  """Writes a folder data set of noise, and images to predict."""
  rng = np.random.default_rng(0)
  for split, count in (
    *(('train', _TRAIN_IMAGES), ('val', _EVAL_IMAGES)),
    ('predict', _PREDICT_IMAGES),
  ):
    for kind, high, shape in (
      ('images', 256, (_SIZE, _SIZE, 3)),
      ('labels', _CLASSES, (_SIZE, _SIZE)),
    ):
      (root / split / kind).mkdir(parents=True)
      for i in range(count):
        pixels = rng.integers(0, high, shape, np.uint8)
        Image.fromarray(pixels).save(root / split / kind / f'{i}.png')


def make_config(base: pathlib.Path) -> ConfigDict:
  """Returns the config of a run whose steps take milliseconds."""
  c = shapes_mnv2.get_config('smoke').unlock()
  folder.set_data(c)
  c.name = 'kills'
  c.data.root = str(base / 'raw')
  c.data.data_dir = str(base / 'prepared')
  c.data.num_classes = _CLASSES
  c.model.output_stride = 8
  c.model.encoder = ConfigDict(
    {'name': 'erfnet_tiny', 'blocks': 0, 'rates': (1,)}
  )
  c.model.head = ConfigDict({'name': 'fcn', 'stage': 2, 'channels': 8})
  registry.fill_defaults(c.model)
  c.total_steps = _TRAIN_STEPS
  c.log_every_steps = 4
  c.checkpoint.every_steps = 3
  c.eval.every_epochs = 4 * c.batch_size / _TRAIN_IMAGES
  c.eval.static_size = (_SIZE, _SIZE)
  return c.lock()


# A page that returns the config above.
_PAGE = """
import pathlib
from experiments.benchmarks import kills
def get_config():
  return kills.make_config(pathlib.Path({base!r}))
"""


def _report_phases() -> None:
  """Makes saves and evaluations of this process report their begin."""

  def reported(phase: bytes, function: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
      _report(phase)
      return function(*args, **kwargs)

    return call

  checkpoints.Checkpoints.save = reported(  # type: ignore[method-assign]
    _SAVE, checkpoints.Checkpoints.save
  )
  evaluate.evaluate_predictor = reported(_EVALUATE, evaluate.evaluate_predictor)


def _train(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Trains, and reports saves and evaluations."""
  _report_phases()
  train.train(config, str(workdir))


def _prepare(config: ConfigDict, data_dir: pathlib.Path) -> None:
  """Prepares the training split in another folder."""
  data = ConfigDict(config.data).unlock()
  data.data_dir = str(data_dir)
  datasets.Dataset(data).prepare(data.train_split)


def _predict(
  workdir: pathlib.Path, images: pathlib.Path, output: pathlib.Path
) -> None:
  """Segments a folder of images."""
  segmenter = predict.load_segmenter(workdir)
  _report(_SAVE)
  predict.predict_files(segmenter, images, output, 0.5)


def _export(workdir: pathlib.Path, output: pathlib.Path) -> None:
  """Exports a run as one .tflite file."""
  request = request_lib.make_request(
    formats=('float32',), input_size=(_SIZE, _SIZE), num_classes=_CLASSES
  )
  pipeline.export_model(
    source_lib.load_trained(str(workdir), 'best'),
    request,
    str(output),
    num_calibration_images=0,
    evaluate_files=False,
  )


class _ForkedRun:
  """A run that a sweep starts, as `subprocess.Popen` does, but forked."""

  def __init__(self, command: Sequence[str], *, stdout: Any, **_: Any):
    self.returncode: int | None = None
    self.pid = os.fork()
    if not self.pid:
      sys.argv = ['main', *command[3:]]  # without `python -m deeplab.main`
      _run_and_exit(self._run, stdout.fileno())

  @staticmethod
  def _run() -> None:
    """Trains as `deeplab.main` does."""
    _report_phases()
    values = flags.FlagValues()
    config_flag = main_lib.define_flags(values)
    values(sys.argv)
    main_lib.main(['main'], config_flag, values)

  def poll(self) -> int | None:
    """Returns the exit status, None while the run goes on."""
    if self.returncode is None:
      pid, status = os.waitpid(self.pid, os.WNOHANG)
      if pid:
        self.returncode = os.waitstatus_to_exitcode(status)
    return self.returncode


def _sweep(base: pathlib.Path, workdir: pathlib.Path) -> None:
  """Runs a study of two runs."""
  names = vars(subprocess) | {'Popen': _ForkedRun}
  sweep.subprocess = types.SimpleNamespace(**names)  # type: ignore[assignment]
  page = base / 'page.py'
  if not page.exists():
    page.write_text(_PAGE.format(base=str(base)), 'utf-8')
  rate = 'optimizer.learning_rate'
  ablation = study.Study(
    name='kills',
    question='Is a killed sweep finished with the same table?',
    reference='None.',
    base=study.StudyBase('', str(page), {'total_steps': 8}, (0,)),
    grid={'rate': {'low': {rate: 0.001}, 'high': {rate: 0.01}}},
  )
  runs = sweep.write_plan(ablation, str(workdir), ())
  failed = sweep.execute_runs(runs, str(workdir), 1)
  if failed:
    raise ValueError(f'{workdir}: {failed} failed')


def _read_sweep(workdir: pathlib.Path) -> list[Any]:
  """Returns the table of a sweep, and digests of the weights of its runs."""
  return [
    tabulate.format_table(tabulate.collect_sweep(str(workdir))),
    *(hash_checkpoint(workdir / 'runs' / f'{x}-s0') for x in ('low', 'high')),
  ]


@dataclasses.dataclass
class Counts:
  """Counts of a campaign for one command.

  Attributes:
    killed: processes that were killed.
    ended: processes that ended before their moment.
    completed: sequences of kills whose last process ended.
    same: those of them with the bits of the undisturbed one.
    half_written: files or checkpoints that could be seen and not be read.
    failed: processes that ended with an error after a kill.
    leftovers: temporary files after the last process.
    refused: processes that said one sentence, as they had to.
    fell_back: trainings that set a damaged checkpoint aside, and said so.
    seconds: time of all of it.
  """

  killed: int = 0
  ended: int = 0
  completed: int = 0
  same: int = 0
  half_written: int = 0
  failed: int = 0
  leftovers: int = 0
  refused: int = 0
  fell_back: int = 0
  seconds: float = 0.0

  def is_clean(self) -> bool:
    """Returns True if nothing was lost or left."""
    return self.same == self.completed and not (
      self.half_written or self.failed or self.leftovers
    )

  def __add__(self, other: 'Counts') -> 'Counts':
    """Returns the sums."""
    pairs = zip(
      dataclasses.astuple(self), dataclasses.astuple(other), strict=True
    )
    return Counts(*(a + b for a, b in pairs))


def draw_kill(
  rng: random.Random,
  expected: Ending,
  inside: Sequence[bytes],
  share: float = 1.0,
) -> Kill:
  """Draws a moment; two thirds fall into the given phases.

  Args:
    rng: draws it.
    expected: the undisturbed process.
    inside: phases; [] draws any moment.
    share: part of the process, from its start, that the moment lies in. Below
      1, several kills are needed to get to the end.
  """
  group = rng.random() < 0.5
  if inside and rng.random() < 2 / 3:
    times = [seconds for _, seconds in expected.phases] + [expected.seconds]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    chosen = [i for i, (p, _) in enumerate(expected.phases) if p in inside]
    index = chosen[int(rng.random() * max(len(chosen) * share, 1))]
    phase = expected.phases[index][0]
    count = sum(p == phase for p, _ in expected.phases[:index])
    return Kill(phase, count, rng.uniform(0, gaps[index]), group)
  seconds = rng.uniform(0, expected.seconds * share)
  return Kill(_START, 0, seconds, group)


@dataclasses.dataclass(frozen=True)
class Command:
  """A command that a campaign kills.

  Attributes:
    work: runs it in a folder.
    result: returns what must be the same after kills, for a folder.
    find_wrong: returns what is half-written in a folder, given the hashes of
      the undisturbed one.
    inside: phases of which two thirds of the kills fall into.
    share: part of a process that a kill falls into, from its start.
    most_kills: kills before the command is left to end.
  """

  work: Callable[[pathlib.Path], Any]
  result: Callable[[pathlib.Path], Any]
  find_wrong: Callable[[pathlib.Path, Any], list[str]]
  inside: tuple[bytes, ...] = ()
  share: float = 1.0
  most_kills: int = 2


def make_commands(
  config: ConfigDict, base: pathlib.Path, workdir: pathlib.Path
) -> dict[str, Command]:
  """Returns the commands by name.

  Args:
    config: of the runs.
    base: folder with the raw images.
    workdir: a finished run, to predict with and to export.
  """
  images = base / 'raw' / 'predict' / 'images'

  def hash_tflite(place: pathlib.Path) -> dict[str, str]:
    hashes = hash_folder(place).items()
    return {k: v for k, v in hashes if k.endswith('.tflite')}

  def find_wrong_files(place: pathlib.Path, wanted: Any) -> list[str]:
    return find_half_written(place) + find_other_content(place, wanted)

  return {
    'train': Command(
      work=lambda place: _train(config, place / 'run'),
      result=lambda place: hash_checkpoint(place / 'run'),
      find_wrong=lambda place, _: [
        *find_half_written(place),
        *find_damaged_checkpoints(place / 'run'),
      ],
      inside=(_SAVE, _EVALUATE),
      share=0.4,
      most_kills=12,
    ),
    'prepare': Command(
      work=lambda place: _prepare(config, place),
      result=hash_folder,
      find_wrong=find_wrong_files,
    ),
    'sweep': Command(
      work=lambda place: _sweep(base, place / 'study'),
      result=lambda place: _read_sweep(place / 'study'),
      # A run whose sweep alone was killed still writes checkpoints.
      find_wrong=lambda place, _: find_half_written(place),
      inside=(_SAVE, _EVALUATE),
      share=0.6,
      most_kills=4,
    ),
    'export': Command(
      work=lambda place: _export(workdir, place / 'out'),
      result=hash_tflite,
      find_wrong=find_wrong_files,
      most_kills=4,
    ),
    'predict': Command(
      work=lambda place: _predict(workdir, images, place / 'out'),
      result=hash_folder,
      find_wrong=find_wrong_files,
      inside=(_SAVE,),
      most_kills=4,
    ),
  }


# Campaigns. A trial is a sequence of kills, or one of the other kinds, in a
# folder of its own; it depends on the seed, its kind and its number alone.


@dataclasses.dataclass(frozen=True)
class Undisturbed:
  """A command that nobody disturbed.

  Attributes:
    ending: its phases and duration.
    result: what must be the same.
  """

  ending: Ending
  result: Any


def _measure(command: Command, base: pathlib.Path) -> Undisturbed:
  """Runs a command twice; the second time it finds everything compiled.

  Args:
    command: the command.
    base: its folder; `whole` in it becomes the folder of the second time.
  """
  whole, log = base / 'whole', base / 'log.txt'
  for _ in range(2):
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    ending = run_and_kill(lambda: command.work(whole), log)
    if ending.status != _DONE:
      raise RuntimeError(f'{log} has the error of the undisturbed command')
  return Undisturbed(ending, ask(lambda: command.result(whole), log))


def kill_often(
  command: Command,
  most_kills: int,
  whole: Undisturbed,
  rng: random.Random,
  place: pathlib.Path,
  log: pathlib.Path,
) -> Counts:
  """Kills a command several times, and then lets it end.

  Args:
    command: the command.
    most_kills: number of kills, at the most.
    whole: the undisturbed command.
    rng: draws number and moments of the kills.
    place: an empty folder.
    log: file of the output.
  """
  counts = Counts()
  findings = place.parent / 'wrong.json'

  def check_and_work() -> None:
    # In the same process: a check alone would take as long.
    findings.write_text(json.dumps(command.find_wrong(place, whole.result)))
    _report(_START)
    command.work(place)

  def run(kill: Kill | None) -> Ending:
    findings.unlink(missing_ok=True)
    # The moment counts from the second begin, after the check.
    moment = kill and dataclasses.replace(
      kill, count=kill.count + (kill.phase == _START)
    )
    ending = run_and_kill(check_and_work, log, moment)
    logging.info('%s: %s, status %d', place.name, kill, ending.status)
    wrong = json.loads(findings.read_text()) if findings.exists() else []
    counts.half_written += len(wrong)
    if wrong:
      logging.warning('%s, half-written: %s', place, wrong)
    counts.failed += not ending.killed and ending.status != _DONE
    if ending.status not in (_DONE, -signal.SIGKILL):
      logging.warning('%s fails after a kill; see %s', place, log)
    return ending

  for _ in range(rng.randint(1, most_kills)):
    kill = draw_kill(rng, whole.ending, command.inside, command.share)
    ending = run(kill)
    counts.killed += ending.killed
    counts.ended += ending.status == _DONE
    if not ending.killed:
      break
  # Once more where it has ended, too: that must change nothing.
  if run(None).status == _DONE:
    counts.completed += 1
    same = ask(functools.partial(command.result, place), log) == whole.result
    counts.same += same
    left = find_leftovers(place)
    counts.leftovers += len(left)
    if not same or left:
      logging.warning('%s: same bits %s, left %s', place, same, left)
  return counts


def _is_sentence(log: pathlib.Path, words: str) -> bool:
  """Returns True if a process ended with one sentence that has some words."""
  content = log.read_text('utf-8', 'replace')
  return '\nError: ' in f'\n{content}' and (
    words in content and 'Traceback' not in content
  )


def train_twice(
  command: Command,
  whole: Undisturbed,
  rng: random.Random,
  place: pathlib.Path,
) -> Counts:
  """Starts a second training in the work directory of a first one.

  Args:
    command: the training.
    whole: the undisturbed training.
    rng: draws the time between their starts.
    place: an empty folder.
  """
  counts = Counts()
  logs = [place.parent / f'{place.name}{i}.txt' for i in range(2)]
  work = functools.partial(command.work, place)
  first = Process(work, logs[0])
  time.sleep(rng.uniform(0, 0.8 * whole.ending.seconds))
  second = Process(work, logs[1])
  endings = [second.wait(), first.wait()]
  done = [x.status == _DONE for x in reversed(endings)]
  for i, log in enumerate(logs):
    if not done[i]:
      refused = done[1 - i] and _is_sentence(log, 'is in use: process')
      counts.refused += refused
      counts.failed += not refused
  if all(done):  # the second one began when the first had ended
    counts.ended += 1
  if any(done):
    counts.completed += 1
    log = place.parent / 'log.txt'
    counts.same += ask(lambda: command.result(place), log) == whole.result
    counts.leftovers += len(find_leftovers(place))
  return counts


def damage_file(rng: random.Random, folder_path: pathlib.Path) -> str:
  """Damages a file of a checkpoint; returns a description."""
  files = sorted(path for path in folder_path.rglob('*') if path.is_file())
  path = rng.choice(files)
  content = bytearray(path.read_bytes())
  action = rng.choice(('flip', 'remove', 'cut'))
  if action == 'remove':
    path.unlink()
  elif action == 'cut':
    path.write_bytes(content[: rng.randrange(max(len(content), 1))])
  elif content:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
  return f'{action} {path.relative_to(folder_path)}'


def damage_checkpoints(
  command: Command,
  finished: pathlib.Path,
  whole: Undisturbed,
  rng: random.Random,
  place: pathlib.Path,
) -> Counts:
  """Damages checkpoints of a finished run, and trains on.

  Args:
    command: the training.
    finished: the folder of the undisturbed one.
    whole: the undisturbed training.
    rng: draws the damage.
    place: an empty folder.
  """
  counts = Counts()
  log = place.parent / f'{place.name}.txt'
  shutil.copytree(finished, place, dirs_exist_ok=True)
  directory = workdir_lib.checkpoint_dir(str(place / 'run'))
  steps = checkpoint_files.saved_steps(directory)
  for step in steps if rng.random() < 0.25 else steps[-1:]:
    damage = damage_file(rng, pathlib.Path(directory, str(step)))
    logging.info('%s: step %d, %s', place.name, step, damage)
  ending = run_and_kill(lambda: command.work(place), log)
  if ending.status == _DONE:
    counts.completed += 1
    same = ask(lambda: command.result(place), log) == whole.result
    counts.same += same
    counts.fell_back += 'is damaged (' in log.read_text('utf-8', 'replace')
  else:
    refused = _is_sentence(log, 'none is whole')
    counts.refused += refused
    counts.failed += not refused
  return counts


def read_trials(path: pathlib.Path) -> list[Counts]:
  """Returns the counts of the trials of an earlier campaign; [] without one."""
  if not path.exists():
    return []
  lines = path.read_text('utf-8').splitlines()
  return [Counts(**json.loads(line)) for line in lines]


def _run_trials(
  name: str,
  wanted: int,
  seed: int,
  base: pathlib.Path,
  commands: dict[str, Command],
  measured: dict[str, Undisturbed],
) -> Counts:
  """Runs the trials of one kind, after those that an earlier call has run.

  Args:
    name: a command, or 'twice' or 'damage'.
    wanted: number of trials.
    seed: of the moments.
    base: folder of the campaign.
    commands: the commands by name.
    measured: undisturbed commands by name, which are added to.
  """
  kills = name in commands
  killed = name if kills else 'train'
  command = commands[killed]
  folder_path = base / name
  folder_path.mkdir(exist_ok=True)
  record = folder_path / 'trials.jsonl'
  done = read_trials(record)
  if killed not in measured:
    (base / killed).mkdir(exist_ok=True)
    measured[killed] = _measure(command, base / killed)
  whole = measured[killed]

  def count(counts: Sequence[Counts]) -> int:
    return sum(x.killed for x in counts) if kills else len(counts)

  while count(done) < wanted:
    number = len(done)
    rng = random.Random(f'{seed}/{name}/{number}')
    place = folder_path / f'trial{number}'
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    began = time.monotonic()
    if kills:
      most = min(command.most_kills, wanted - count(done))
      log = folder_path / 'log.txt'
      counts = kill_often(command, most, whole, rng, place, log)
    elif name == 'twice':
      counts = train_twice(command, whole, rng, place)
    else:
      finished = base / killed / 'whole'
      counts = damage_checkpoints(command, finished, whole, rng, place)
    if counts.is_clean():
      shutil.rmtree(place)
    else:
      logging.warning('%s: %s', place, counts)
    counts.seconds = time.monotonic() - began
    with open(record, 'a', encoding='utf-8') as f:
      f.write(json.dumps(dataclasses.asdict(counts)) + '\n')
    done.append(counts)
  return sum(done, Counts())


def render_table(counts: dict[str, Counts]) -> str:
  """Renders the counts by command as a Markdown table."""
  fields = [field.name for field in dataclasses.fields(Counts)]
  rows = [
    [name, *(f'{getattr(c, f):.0f}' for f in fields)]
    for name, c in counts.items()
  ]
  return '\n'.join(text.format_table(['command', *fields], rows))


_TRIALS = (
  *('train:100', 'prepare:20', 'sweep:20', 'export:20', 'predict:20'),
  *('twice:10', 'damage:20'),
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_list(
    'trials',
    list(_TRIALS),
    'Number of kills, or of other trials, of each kind, as KIND:NUMBER.',
    flag_values=values,
  )
  flags.DEFINE_integer('seed', 0, 'Draws the moments.', flag_values=values)
  flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the campaign, which goes on there; by default a temporary one.',
    flag_values=values,
  )


def parse_trials(words: Sequence[str]) -> dict[str, int]:
  """Returns the numbers of trials by kind.

  Args:
    words: like 'train:100'.

  Raises:
    ValueError: a kind is unknown, or a number is none.
  """
  kinds = [word.partition(':')[0] for word in _TRIALS]
  numbers = {}
  for word in words:
    name, _, number = word.partition(':')
    if name not in kinds or not number.isdigit():
      raise ValueError(
        f'--trials={word} is not KIND:NUMBER; kinds are {", ".join(kinds)}'
      )
    numbers[name] = int(number)
  return numbers


def run_campaigns(
  trials: dict[str, int], seed: int, base: pathlib.Path
) -> dict[str, Counts]:
  """Runs the campaigns of several commands below a folder.

  Args:
    trials: numbers by kind.
    seed: of the moments.
    base: folder of an earlier, unfinished campaign, or an empty one.
  """
  if not (base / 'raw').exists():
    _write_images(base / 'new')
    (base / 'new').rename(base / 'raw')
  config = make_config(base)
  workdir = base / 'model' / 'run'
  commands = make_commands(config, base, workdir)
  measured: dict[str, Undisturbed] = {}
  (base / 'model').mkdir(exist_ok=True)
  ending = run_and_kill(lambda: _train(config, workdir), base / 'model.txt')
  if ending.status != _DONE:
    raise RuntimeError(f'{base}/model.txt has the error of the training')
  return {
    name: _run_trials(name, number, seed, base, commands, measured)
    for name, number in trials.items()
  }


def _run(values: flags.FlagValues) -> None:
  trials = parse_trials(values.trials)
  # Small computations are kept, too: each process needs all of them.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  base = pathlib.Path(values.workdir or tempfile.mkdtemp(prefix='kills'))
  base.mkdir(parents=True, exist_ok=True)
  counts = run_campaigns(trials, values.seed, base.absolute())
  print(render_table(counts))
  versions = [f'{x} {importlib.metadata.version(x)}' for x in _PACKAGES]
  print(f'seed {values.seed}; {", ".join(versions)}')
  if not all(c.is_clean() for c in counts.values()):
    print(f'{base} holds what differs')
    sys.exit(1)
  if not values.workdir:
    shutil.rmtree(base)


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Runs the campaigns, prints their table; status 1 if something was lost."""
  cli.run_command(argv, lambda: _run(values))


if __name__ == '__main__':
  define_flags()
  jax.config.config_with_absl()
  app.run(main, flags_parser=cli.parse_flags)
