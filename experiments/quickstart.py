"""Trains, predicts, exports and evaluates on drawn shapes.

    python -m experiments.quickstart

runs the commands that you would run for your own data, prints each, and ends
with the mIoU of the trained network and of its int8 file. It needs no network
access and about five minutes on two CPU cores. Everything is written to
runs/quickstart; started again, it resumes.
"""

import os
import shlex
import subprocess
import sys
import time

from absl import app
from absl import flags
from PIL import Image

from configs import shapes_mnv2
from deeplab import cli
from deeplab.data import datasets
from deeplab.files import json_files
from deeplab.files import output_files

_CONFIG_PATH = 'configs/shapes_mnv2.py'


def _run_command(module: str, *arguments: str) -> None:
  """Prints and runs one command of the project."""
  print(f'\n$ python -m {module} {shlex.join(arguments)}', flush=True)
  done = subprocess.run([sys.executable, '-m', module, *arguments], check=False)
  if done.returncode:
    raise SystemExit(f'{module} failed with status {done.returncode}')


def _write_images(directory: str, count: int, overwrite: bool) -> None:
  """Writes a few validation images as PNG files."""
  files = output_files.OutputFiles(
    directory, flag='--workdir', overwrite=overwrite
  )
  config = shapes_mnv2.get_config()
  examples = datasets.Dataset(config.data).examples(config.data.eval_split)
  for _, example in zip(range(count), examples, strict=False):
    image = Image.fromarray(example['image'])
    with files.replace(f'{example["name"]}.png') as path:
      image.save(path)


def _read_miou(path: str) -> float:
  return json_files.read_json(path)['miou']


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string(
    'workdir',
    'runs/quickstart',
    'Folder that gets all files.',
    flag_values=values,
  )
  cli.define_overwrite_flag(values)


def _run() -> None:
  start = time.monotonic()
  overwrite = f'--overwrite={str(flags.FLAGS.overwrite).lower()}'
  workdir = flags.FLAGS.workdir
  exported = os.path.join(workdir, 'export')
  images = os.path.join(workdir, 'images')
  masks = os.path.join(workdir, 'predictions')
  tflite = os.path.join(exported, 'int8.tflite')

  _run_command(
    'deeplab.main', f'--config={_CONFIG_PATH}', f'--workdir={workdir}'
  )
  _write_images(images, 12, flags.FLAGS.overwrite)
  _run_command(
    'deeplab.predict',
    f'--weights={workdir}',
    f'--images={images}',
    f'--output={masks}',
    overwrite,
  )
  _run_command(
    'export.main',
    f'--weights={workdir}',
    f'--output={exported}',
    '--formats=int8',
    overwrite,
  )
  _run_command(
    'deeplab.main',
    '--mode=evaluate',
    f'--workdir={workdir}',
    f'--tflite={tflite}',
  )

  scores = os.path.join(workdir, 'eval')
  names = sorted(n for n in os.listdir(scores) if n.startswith('checkpoint_'))
  float_miou = _read_miou(os.path.join(scores, names[-1], 'metrics.json'))
  int8_miou = _read_miou(os.path.join(scores, 'int8', 'metrics.json'))
  print(
    f'\nmIoU float {float_miou:.4f}, int8 {int8_miou:.4f} '
    f'(difference {100 * (int8_miou - float_miou):+.2f} points), '
    f'{time.monotonic() - start:.0f} s in all.\n'
    'Both are measured on the validation images at the size of the exported '
    'file; training\nprinted the mIoU at the size of each image. On drawn '
    'shapes '
    'they show that everything\nworks, not how good the network is on '
    'photographs.\n'
    f'Look at {masks}/contact_sheet.png, {workdir}/curves.png and '
    f'{exported}/report.md.'
  )


def main(argv: list[str]) -> None:
  """Runs all commands and prints the two scores."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  define_flags()
  app.run(main)
