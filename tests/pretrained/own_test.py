"""Weights leave as a file, come back, and a run goes on from them."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from deeplab import checkpoints
from deeplab import train
from deeplab import workdir as workdirs
from deeplab.pretrained import merge
from deeplab.pretrained import own
from deeplab.pretrained import safetensors
from tests import runs


def test_a_run_leaves_as_a_file(smoke_run, tmp_path):
  path = str(tmp_path / 'weights.safetensors')
  own.write(smoke_run.workdir, 'best', path)
  texts = safetensors.metadata(path)
  assert json.loads(texts['config'])['name'] == smoke_run.config.name
  assert json.loads(texts['classes'])[:2] == ['background', 'disc']
  assert texts['step'] == '6'
  tensors = safetensors.read(path)
  ours = merge.flatten(workdirs.load(smoke_run.workdir).variables)
  assert tensors.keys() == ours.keys()
  for name, value in tensors.items():
    np.testing.assert_array_equal(value, ours[name])


@pytest.mark.full
def test_the_command(smoke_run, tmp_path):
  path = str(tmp_path / 'weights.safetensors')
  command = [sys.executable, '-m', 'deeplab.pretrained.export']
  subprocess.run(
    [*command, f'--workdir={smoke_run.workdir}', f'--output={path}'], check=True
  )
  assert safetensors.metadata(path)['step'] == '6'
  done = subprocess.run(
    [*command, f'--output={path}'], capture_output=True, text=True, check=False
  )
  assert 'Error: --workdir and --output are needed' in done.stderr


def test_another_end_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'weights\.pth must end in'):
    own.write('nowhere', 'best', str(tmp_path / 'weights.pth'))


def test_a_run_starts_from_another(smoke_run, data_dir, tmp_path):
  """Weights, averages and the record; and a resume needs the donor no more."""
  donor = str(tmp_path / 'donor')
  shutil.copytree(smoke_run.workdir, donor)
  workdir = str(tmp_path / 'run')
  config = runs.config(
    data_dir,
    init_from=donor,
    ema_decay=0.9,
    total_steps=2,
    optimizer__learning_rate=1e-9,
    eval__every_epochs=1000.0,
  )
  train.train(config, workdir)
  start = workdirs.load(donor).variables['params']
  folder = workdirs.checkpoint_dir(workdir)
  # The averages are what is read.
  after, _, _ = checkpoints.load_variables(folder, 'latest')
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    start,
    after['params'],
  )
  with open(os.path.join(workdir, 'init.json'), encoding='utf-8') as f:
    record = json.load(f)
  assert record['path'] == donor and record['kept'] == []
  shutil.rmtree(donor)
  train.train(config, workdir)
