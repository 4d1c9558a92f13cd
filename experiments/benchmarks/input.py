r"""Compares our input pipeline with torchvision's, in images per core-second.

Both sides read, scale, crop, flip, normalize and batch the same files, ours
with the training pipeline and torchvision's with v2 transforms and a
DataLoader, in interleaved rounds:

    python -m experiments.benchmarks.input --config.data.root=CAMVID
    python -m experiments.benchmarks.input --config.data.root=CAMVID --cache \
        --torch_python=OTHER/bin/python
    python -m experiments.benchmarks.input --photographs=48

The benchmark measures processor time, which other programs on the machine
affect little. Each side runs in one process; the cost of passing batches
between DataLoader workers is not included.

Needs torch and torchvision for the other side; README.md has results.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app
from absl import flags
import cv2
from ml_collections import config_flags
import numpy as np

from deeplab import cli
from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.data.builders import folder

_PHOTOGRAPH_SIZE = 1200, 1600
_OPS = ('random_scale', 'random_crop', 'random_flip')


def write_photographs(config: Any, folder: pathlib.Path, count: int) -> Any:
  """Writes synthetic photographs and returns a config that reads them.

  Args:
    config: the config to start from.
    folder: folder for the files and the prepared records.
    count: number of training images.
  """
  rng = np.random.default_rng(0)
  height, width = _PHOTOGRAPH_SIZE
  for split, number in (('train', count), ('val', 1)):
    for name in ('images', 'labels'):
      (folder / split / name).mkdir(parents=True)
    for i in range(number):
      blobs = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
      image = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
      noise = rng.normal(0, 6, (height, width, 3))
      image = (image + noise).clip(0, 255).astype(np.uint8)
      regions = rng.integers(0, 11, (height // 60, width // 60), np.uint8)
      label = cv2.resize(
        regions, (width, height), interpolation=cv2.INTER_NEAREST
      )
      cv2.imwrite(
        str(folder / split / 'images' / f'{i}.jpg'),
        image,
        (cv2.IMWRITE_JPEG_QUALITY, 90),
      )
      cv2.imwrite(str(folder / split / 'labels' / f'{i}.png'), label)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.root = str(folder)
    config.data.data_dir = str(folder / 'prepared')
    config.data.num_classes, config.data.class_names = 11, ()
    config.data.augment.random_crop.size = (512, 512)
  return config


class DeeplabInput:
  """Our pipeline, in one thread."""

  def __init__(self, config: Any, batches: int, cache: bool):
    config = config.copy_and_resolve_references()
    with config.unlocked():
      config.data.cache = cache
      config.data.threads = 1
      config.data.prefetch = 1
      # The other side takes any crop.
      config.data.augment.random_crop.max_class_share = 1.0
    self.name = f'ours{", decoded images cached" if cache else ""}'
    self._batches = batches
    dataset = datasets.Dataset(config.data)
    self._stream = dataset.train_batches(
      seed=config.seed, batch_size=config.batch_size
    )
    if cache:
      count = dataset.num_examples(config.data.train_split)
      for _ in range(-(-count // config.batch_size)):
        next(self._stream)
      time.sleep(0.5)

  def run_round(self) -> float:
    """Runs one round and returns its processor seconds."""
    start = time.process_time()
    for _ in range(self._batches):
      next(self._stream)
    # The batch ahead, which the next round will not have to make.
    time.sleep(0.5)
    return time.process_time() - start


class TorchvisionInput:
  """The torchvision side, in its own process.

  Raises:
    RuntimeError: the process did not start.
  """

  def __init__(self, config: Any, batches: int, python: str):
    data = config.data
    scale, crop = data.augment.random_scale, data.augment.random_crop
    self._process = subprocess.Popen(
      [python, '-m', 'experiments.benchmarks.torch_input'],
      cwd=os.path.join(os.path.dirname(__file__), '..', '..'),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._python = python
    self._shape = [config.batch_size, 3, *crop.size]
    pairs = [
      (one.image, one.annotation)
      for one in folder.find_examples(data, data.train_split)
    ]
    message = self._ask(
      {
        'pairs': [[str(path) for path in pair] for pair in pairs],
        'batch': config.batch_size,
        'batches': batches,
        'crop': list(crop.size),
        'low': scale.low,
        'high': scale.high,
        'flip': data.augment.random_flip.probability,
        'mean': list(data.mean),
        'std': list(data.std),
        'ignore': dataset_info.IGNORE,
      }
    )
    self.name = message['name']

  def _ask(self, message: Any) -> dict[str, Any]:
    # Its input ends with this process, and so does it.
    line = ''
    try:
      print(json.dumps(message), file=self._process.stdin, flush=True)
      line = next(iter(self._process.stdout or ()), '')
    except BrokenPipeError:
      pass
    if not line:
      raise RuntimeError(
        f'torchvision did not run in {self._python}; its own words are above. '
        '--torch_python=PYTHON names another, --torch=off does without'
      )
    return json.loads(line)

  def run_round(self) -> float:
    """Runs one round and returns its processor seconds."""
    message = self._ask('round')
    if message['shape'] != self._shape:
      raise RuntimeError(f'batches of {message["shape"]}, not {self._shape}')
    return message['seconds']


def measure_rounds(sides: list[Any], rounds: int) -> list[float]:
  """Returns the median seconds of interleaved rounds of each side.

  Args:
    sides: objects with `run_round()`.
    rounds: number of measured rounds; one warm-up round precedes them.
  """
  seconds = [[side.step() for side in sides] for _ in range(1 + rounds)]
  return [statistics.median(times) for times in zip(*seconds[1:], strict=True)]


_READ_FIELDS = cli.ReadFields(('data', 'batch_size', 'seed'))


def define_flags(values: flags.FlagValues = flags.FLAGS) -> flags.FlagHolder:
  """Defines the command's flags; importing this module defines none.

  Returns:
    The flag --config.
  """
  flags.DEFINE_bool(
    'cache',
    False,
    'Also measure ours with all decoded images in memory.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'photographs',
    0,
    'Measure on this number of synthetic photographs (1600x1200, crops of '
    '512x512) instead of the data of --config.',
    flag_values=values,
  )
  flags.DEFINE_integer('batches', 10, 'Batches per round.', flag_values=values)
  flags.DEFINE_integer(
    'rounds', 5, 'Interleaved rounds per side.', flag_values=values
  )
  flags.DEFINE_enum(
    'torch',
    'auto',
    ['auto', 'off', 'on'],
    'Whether to measure torchvision; auto: if installed.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'torch_python',
    sys.executable,
    'Python interpreter with torch and torchvision.',
    flag_values=values,
  )
  return config_flags.DEFINE_config_file(
    'config',
    os.path.join('configs', 'camvid_mnv2.py'),
    'Experiment on a folder; its `data` and `batch_size` are read.',
    flag_values=values,
  )


def _run(config_flag: flags.FlagHolder) -> None:
  config: Any = cli.config_from_flag(config_flag, reads=_READ_FIELDS)
  with tempfile.TemporaryDirectory() as folder:
    if flags.FLAGS.photographs:
      config = write_photographs(
        config, pathlib.Path(folder), flags.FLAGS.photographs
      )
    _compare_sides(config)


def _compare_sides(config: Any) -> None:
  augment = config.data.augment
  if config.data.name != 'folder' or tuple(augment.ops) != _OPS:
    raise app.UsageError(f'--config must read a folder by the ops {_OPS}')
  sides: list[Any] = [DeeplabInput(config, flags.FLAGS.batches, cache=False)]
  if flags.FLAGS.cache:
    sides.append(DeeplabInput(config, flags.FLAGS.batches, cache=True))
  if flags.FLAGS.torch != 'off':
    try:
      sides.append(
        TorchvisionInput(config, flags.FLAGS.batches, flags.FLAGS.torch_python)
      )
    except (OSError, RuntimeError) as error:
      if flags.FLAGS.torch != 'auto':
        raise
      print(f'Without torchvision: {error}')
  images = flags.FLAGS.batches * config.batch_size
  height, width = augment.random_crop.size
  print(
    f'batches of {config.batch_size} crops of {height}x{width}: images per '
    f'second of processor time, median of {flags.FLAGS.rounds} rounds of '
    f'{images}'
  )
  seconds = measure_rounds(sides, flags.FLAGS.rounds)
  for side, time_taken in zip(sides, seconds, strict=True):
    ratio = ''
    if isinstance(sides[-1], TorchvisionInput) and side is not sides[-1]:
      ratio = f' ({seconds[-1] / time_taken:.2f} times torchvision)'
    print(f'{images / time_taken:8.1f} {side.name}{ratio}')


def main(argv: list[str], config_flag: flags.FlagHolder) -> None:
  """Prints all sides and their ratios."""
  cli.run_command(argv, lambda: _run(config_flag))


if __name__ == '__main__':
  _config_flag = define_flags()
  app.run(lambda argv: main(argv, _config_flag), flags_parser=cli.parse_flags)
