"""Trains or evaluates a segmentation model.

Train, evaluate on the way, and leave everything in a work directory:

    python -m deeplab.main --config=configs/shapes_mnv2.py
    python -m deeplab.main --config=configs/folder_mnv2.py \\
        --config.data.root=MY_IMAGES --config.data.num_classes=3

A config's variant stands after a colon (`configs/voc_mnv2.py:smoke` shrinks
everything to minutes); any field is overridden by its name. The same command
with `--workdir` of an earlier run goes on where that stopped.

Evaluate a run, or a file exported from it, by the same protocol (with --config
on that config's `data` and `eval` instead of the run's own):

    python -m deeplab.main --mode=evaluate --workdir=W
    python -m deeplab.main --mode=evaluate --workdir=W --tflite=F.tflite

On several machines the same command runs on each: SLURM's tasks and the hosts
of a TPU pod find each other, others are told where process 0 is:

    python -m deeplab.main --config=... --workdir=SHARED \\
        --coordinator=HOST:PORT --processes=2 --process=0

Look before training: `--dry_run` prints shapes, MACs, parameters and memory;
`--list` shows the configs, encoders, heads, weights and data sets there are.
"""

import os
import time

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags

from deeplab import cli
from deeplab import describe
from deeplab import evaluate
from deeplab import parallel
from deeplab import train
from deeplab.data import datasets

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Experiment: a file under configs/, maybe with ":variant".'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where the run is written; default runs/<config>/<time>.'
)
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'evaluate'], 'What to do.')
_TFLITE = flags.DEFINE_string(
  'tflite',
  None,
  'With --mode=evaluate: a .tflite or .onnx file to score beside.',
)
_CHECKPOINT = flags.DEFINE_enum(
  'checkpoint', 'best', ['best', 'latest'], 'With --mode=evaluate: which.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', '', 'Of several processes: HOST:PORT of the first.'
)
_PROCESSES = flags.DEFINE_integer('processes', 0, 'How many there are.')
_PROCESS = flags.DEFINE_integer('process', None, 'Which one this is, from 0.')
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print what would be trained, and stop.'
)
_LIST = flags.DEFINE_bool(
  'list', False, 'Print configs, encoders, heads and data sets, and stop.'
)


def _run() -> None:
  config = cli.config_from_flag(_CONFIG)
  if _LIST.value:
    print(describe.list_choices())
    return
  parallel.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  if _MODE.value == 'evaluate':
    if not _WORKDIR.value:
      raise ValueError('--mode=evaluate needs --workdir, the run to evaluate')
    evaluate.evaluate_workdir(
      _WORKDIR.value,
      tflite=_TFLITE.value,
      which=_CHECKPOINT.value,
      config=config,
      overrides=cli.overridden_fields(_CONFIG),
    )
    return
  if config is None:
    raise ValueError(
      '--config is missing; --list shows what there is, for example '
      '--config=configs/shapes_mnv2.py'
    )
  if _DRY_RUN.value:
    print(describe.dry_run(datasets.resolve_config(config)))
    return
  workdir = _WORKDIR.value or parallel.text_of_first_host(
    os.path.join('runs', config.name, time.strftime('%Y%m%d-%H%M%S'))
  )
  logging.info('Work directory: %s', workdir)
  logging.info('Devices: %s', jax.devices())
  train.train(config, workdir)


def main(argv: list[str]) -> None:
  """Dispatches; an error that the user can mend is one line."""
  try:
    cli.run_command(argv, _run)
  except BaseException as error:
    parallel.end(error)
    raise


if __name__ == '__main__':
  jax.config.config_with_absl()
  app.run(main, flags_parser=cli.parse_flags)
