r"""Kills commands at drawn moments, and counts what is left behind.

    python -m experiments.benchmarks.kills --trials=100 --seed=0

Each trial starts a command in a process of its own and ends it by SIGKILL. Then
the folder must hold nothing half-written, and the same command, run until it
ends, must leave the bytes of one that nobody disturbed:

    train      resumes in the same work directory, over several kills; two
               thirds of them fall into saves and evaluations
    prepare    prepares the same raw images in the same folder again
    predict    writes the same masks again
    export     writes the same .tflite file again

Processes are forked from one that has imported everything and used nothing, so
that a trial takes seconds. README.md has results.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
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
from deeplab import predict
from deeplab import text
from deeplab import train
from deeplab import workdir as workdir_lib
from deeplab.data import datasets
from deeplab.training import checkpoint_files
from deeplab.training import checkpoints
from export import pipeline
from export import request as request_lib
from export import source as source_lib

_TRAIN_STEPS = 60
_TRAIN_IMAGES = 16
_EVAL_IMAGES = 6
_PREDICT_IMAGES = 24
_SIZE = 65
_CLASSES = 3
# Phases that a process reports; the first one begins with its work.
_START, _SAVE, _EVALUATE = b's', b'v', b'e'
_DONE, _FAILED = 0, 1
_TIMEOUT_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Kill:
  """A drawn moment.

  Attributes:
    phase: kind of the phase that it falls into.
    count: which one of that kind in the process, from 0.
    delay: time from its begin, in seconds.
  """

  phase: bytes
  count: int
  delay: float


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


def run_and_kill(
  work: Callable[[], Any], log: pathlib.Path, kill: Kill | None = None
) -> Ending:
  """Runs a function in a forked process, and kills it at a moment.

  Args:
    work: the function; `_report` in it reports phases.
    log: file that its output is appended to.
    kill: the moment; None lets it end.
  """
  receiver, sender = os.pipe()
  began = time.monotonic()
  child = os.fork()
  if not child:
    os.close(receiver)
    _run_child(work, log, sender)
  os.close(sender)
  phases: list[tuple[bytes, float]] = []
  deadline, killed = None, False
  while True:
    now = time.monotonic() - began
    limit = _TIMEOUT_SECONDS if deadline is None else deadline
    if now >= limit:
      killed = True
      os.kill(child, signal.SIGKILL)
      break
    if not select.select([receiver], [], [], limit - now)[0]:
      continue
    phase = os.read(receiver, 1)
    if not phase:
      break
    phases.append((phase, time.monotonic() - began))
    count = sum(p == phase for p, _ in phases)
    if kill and (phase, count) == (kill.phase, kill.count + 1):
      deadline = phases[-1][1] + kill.delay
  status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  os.close(receiver)
  seconds = time.monotonic() - began
  if killed and kill is None:
    raise RuntimeError(f'no end in {_TIMEOUT_SECONDS:.0f} s; see {log}')
  return Ending(status == -signal.SIGKILL, status, tuple(phases), seconds)


def _report(phase: bytes) -> None:
  """Reports to the parent that a phase begins."""
  if _phase_pipe is not None:
    os.write(_phase_pipe, phase)


def _run_child(work: Callable[[], Any], log: pathlib.Path, sender: int) -> None:
  """Runs a function in the forked process, and ends it."""
  global _phase_pipe
  _phase_pipe = sender
  status = _FAILED
  try:
    with open(log, 'ab') as output:
      os.dup2(output.fileno(), 1)
      os.dup2(output.fileno(), 2)
    _report(_START)
    work()
    status = _DONE
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
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


def hash_folder(folder_path: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of the files of a folder by their relative paths."""
  return {
    str(path.relative_to(folder_path)): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()
    for path in sorted(folder_path.rglob('*'))
    if path.is_file()
  }


def find_half_written(folder_path: pathlib.Path) -> list[str]:
  """Returns the visible files that cannot be read; hidden ones are not.

  A record of metrics may end in half a line, which the next run drops.
  """
  wrong = []
  for path in sorted(folder_path.rglob('*')):
    name = path.relative_to(folder_path)
    if not path.is_file() or any(part.startswith('.') for part in name.parts):
      continue
    if 'checkpoints' in name.parts or 'incomplete.' in str(name):
      continue
    try:
      if path.suffix == '.json':
        json.loads(path.read_text('utf-8'))
      elif path.suffix in ('.png', '.jpg'):
        with Image.open(path) as image:
          image.load()
    except (OSError, ValueError) as error:
      wrong.append(f'{name}: {error}')
  return wrong


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

  They are hidden, or named by tfds and Orbax; `.config` is part of a data set.
  """
  return [
    str(path.relative_to(folder_path))
    for path in sorted(folder_path.rglob('*'))
    if (path.name.startswith('.') and path.name != '.config')
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
  c.total_steps = _TRAIN_STEPS
  c.log_every_steps = 5
  c.checkpoint.every_steps = 6
  c.eval.every_epochs = 15 * c.batch_size / _TRAIN_IMAGES
  c.eval.static_size = (_SIZE, _SIZE)
  return c.lock()


def _train(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Trains, and reports saves and evaluations."""
  save, evaluated = checkpoints.Checkpoints.save, evaluate.evaluate_predictor

  def reported(phase: bytes, function: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
      _report(phase)
      return function(*args, **kwargs)

    return call

  checkpoints.Checkpoints.save = reported(  # type: ignore[method-assign]
    _SAVE, save
  )
  evaluate.evaluate_predictor = reported(_EVALUATE, evaluated)
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


@dataclasses.dataclass
class Counts:
  """Counts of a campaign for one command.

  Attributes:
    killed: trials that were killed.
    ended: trials that ended before their moment.
    completed: sequences of kills whose last process ended.
    same: those of them with the bits of the undisturbed one.
    half_written: files or checkpoints that could be seen and not be read.
    failed: processes that ended with an error after a kill.
    leftovers: temporary files after the last process.
    seconds: time of all of it.
  """

  killed: int = 0
  ended: int = 0
  completed: int = 0
  same: int = 0
  half_written: int = 0
  failed: int = 0
  leftovers: int = 0
  seconds: float = 0.0

  def is_clean(self) -> bool:
    """Returns True if nothing was lost or left."""
    return self.same == self.completed and not (
      self.half_written or self.failed or self.leftovers
    )


def draw_kill(
  rng: random.Random, expected: Ending, inside: Sequence[bytes]
) -> Kill:
  """Draws a moment; two thirds fall into the given phases.

  Args:
    rng: draws it.
    expected: the undisturbed process.
    inside: phases; [] draws any moment.
  """
  if inside and rng.random() < 2 / 3:
    phase = rng.choice(list(inside))
    times = [seconds for p, seconds in expected.phases if p == phase]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    longest = min(gaps, default=expected.seconds - times[-1])
    return Kill(phase, rng.randrange(len(times)), rng.uniform(0, longest))
  return Kill(_START, 0, rng.uniform(0, expected.seconds))


@dataclasses.dataclass(frozen=True)
class Command:
  """A command that a campaign kills.

  Attributes:
    work: runs it in a folder.
    inside: phases of which two thirds of the kills fall into.
    result: returns what must be the same after kills, for a folder.
    checked: returns what is half-written in a folder.
    most_kills: kills before the command is left to end.
  """

  work: Callable[[pathlib.Path], Any]
  inside: tuple[bytes, ...]
  result: Callable[[pathlib.Path], Any]
  checked: Callable[[pathlib.Path], list[str]]
  most_kills: int


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

  def find_wrong_in_run(place: pathlib.Path) -> list[str]:
    return find_half_written(place) + find_damaged_checkpoints(place / 'run')

  def hash_tflite(place: pathlib.Path) -> dict[str, str]:
    hashes = hash_folder(place).items()
    return {k: v for k, v in hashes if k.endswith('.tflite')}

  return {
    'train': Command(
      work=lambda place: _train(config, place / 'run'),
      inside=(_SAVE, _EVALUATE),
      result=lambda place: hash_checkpoint(place / 'run'),
      checked=find_wrong_in_run,
      most_kills=5,
    ),
    'prepare': Command(
      work=lambda place: _prepare(config, place),
      inside=(),
      result=hash_folder,
      checked=find_half_written,
      most_kills=2,
    ),
    'predict': Command(
      work=lambda place: _predict(workdir, images, place / 'out'),
      inside=(_SAVE,),
      result=hash_folder,
      checked=find_half_written,
      most_kills=2,
    ),
    'export': Command(
      work=lambda place: _export(workdir, place / 'out'),
      inside=(),
      result=hash_tflite,
      checked=find_half_written,
      most_kills=1,
    ),
  }


def run_campaign(
  command: Command, trials: int, rng: random.Random, base: pathlib.Path
) -> Counts:
  """Kills a command in `trials` trials.

  Args:
    command: the command.
    trials: number of kills.
    rng: draws their moments.
    base: folder for the folders of the trials, and for the logs.
  """
  began, counts = time.monotonic(), Counts()
  whole = base / 'whole'
  whole.mkdir(parents=True)
  log = base / 'log.txt'
  for _ in range(2):  # the second one finds everything compiled
    shutil.rmtree(whole)
    whole.mkdir()
    expected = run_and_kill(lambda: command.work(whole), log)
    if expected.status != _DONE:
      raise RuntimeError(f'{log} has the error of the undisturbed command')
  wanted = ask(lambda: command.result(whole), log)
  tried = 0
  while tried < trials:
    place = base / f'trial{tried}'
    place.mkdir()
    work = functools.partial(command.work, place)
    for _ in range(min(rng.randint(1, command.most_kills), trials - tried)):
      tried += 1
      kill = draw_kill(rng, expected, command.inside)
      ending = run_and_kill(work, log, kill)
      logging.info('%s: %s, status %d', place.name, kill, ending.status)
      counts.killed += ending.killed
      counts.ended += ending.status == _DONE
      counts.failed += not ending.killed and ending.status != _DONE
      wrong = ask(functools.partial(command.checked, place), log)
      counts.half_written += len(wrong)
      if wrong:
        logging.warning('%s, half-written: %s', place, wrong)
      if ending.status == _DONE:
        break
    status = run_and_kill(work, log).status
    counts.failed += status != _DONE
    if status != _DONE:
      logging.warning('%s fails after a kill; see %s', place, log)
      continue
    counts.completed += 1
    same = ask(functools.partial(command.result, place), log) == wanted
    counts.same += same
    left = find_leftovers(place)
    counts.leftovers += len(left)
    if same and not left:
      shutil.rmtree(place)
    else:
      logging.warning('%s: same bits %s, left %s', place, same, left)
  counts.seconds = time.monotonic() - began
  return counts


def render_table(counts: dict[str, Counts]) -> str:
  """Renders the counts by command as a Markdown table."""
  fields = [field.name for field in dataclasses.fields(Counts)]
  rows = [
    [name, *(f'{getattr(c, f):.0f}' for f in fields)]
    for name, c in counts.items()
  ]
  return '\n'.join(text.format_table(['command', *fields], rows))


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_integer(
    'trials',
    100,
    'Number of kills of each command.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer('seed', 0, 'Draws the moments.', flag_values=values)
  flags.DEFINE_list(
    'commands',
    ['train', 'prepare', 'predict', 'export'],
    'Commands to kill.',
    flag_values=values,
  )


def run_campaigns(
  names: Sequence[str], trials: int, seed: int, base: pathlib.Path
) -> dict[str, Counts]:
  """Runs the campaigns of several commands below a folder.

  Raises:
    ValueError: a command is unknown.
  """
  _write_images(base / 'raw')
  config = make_config(base)
  workdir = base / 'model' / 'run'
  commands = make_commands(config, base, workdir)
  unknown = sorted(set(names) - set(commands))
  if unknown:
    raise ValueError(
      f'--commands: {", ".join(unknown)} is none of {", ".join(commands)}'
    )
  (base / 'model').mkdir()
  ending = run_and_kill(lambda: _train(config, workdir), base / 'model.txt')
  if ending.status != _DONE:
    raise RuntimeError(f'{base}/model.txt has the error of the training')
  return {
    name: run_campaign(commands[name], trials, random.Random(seed), base / name)
    for name in names
  }


def _run(values: flags.FlagValues) -> None:
  # Small computations are kept, too: each process needs all of them.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  base = pathlib.Path(tempfile.mkdtemp(prefix='kills'))
  counts = run_campaigns(values.commands, values.trials, values.seed, base)
  print(render_table(counts))
  if all(c.is_clean() for c in counts.values()):
    shutil.rmtree(base)
  else:
    print(f'{base} holds what differs')


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Runs the campaigns and prints their table."""
  cli.run_command(argv, lambda: _run(values))


if __name__ == '__main__':
  define_flags()
  jax.config.config_with_absl()
  app.run(main, flags_parser=cli.parse_flags)
