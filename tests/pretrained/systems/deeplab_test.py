"""A run's weights are written as a file, and another run starts from them."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from deeplab import train
from deeplab import workdir as workdir_lib
from deeplab.pretrained import identify
from deeplab.pretrained import model_folder
from deeplab.pretrained.readers import safetensors
from deeplab.training import checkpoints
from tests import runs


@pytest.mark.full
def test_the_command(smoke_run, tmp_path):
  folder = str(tmp_path / 'mine')
  command = [sys.executable, '-m', 'deeplab.pretrained.save']
  done = subprocess.run(
    [*command, f'--weights={smoke_run.workdir}', f'--output={folder}'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert f'hf upload USER/MODEL {folder}' in done.stdout
  assert identify.load_model(folder).step == 6
  done = subprocess.run(
    [*command, f'--output={folder}'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert 'Error: --weights (the model) and --output' in done.stderr


def start_from(donor, data_dir):
  """Returns a config that barely changes the donor's weights."""
  return runs.config(
    data_dir,
    init_from=donor,
    ema_decay=0.9,
    total_steps=1,
    optimizer__learning_rate=1e-9,
  )


@pytest.mark.parametrize('kind', ['run', 'folder'])
def test_a_run_starts_from_another(smoke_run, data_dir, tmp_path, kind):
  workdir, donor = str(tmp_path / 'run'), smoke_run.workdir
  if kind == 'folder':
    donor = str(tmp_path / 'mine')
    model_folder.write_model_folder(
      workdir_lib.load_trained_model(smoke_run.workdir), donor
    )
  train.train(start_from(donor, data_dir), workdir)
  start = workdir_lib.load_trained_model(smoke_run.workdir).variables['params']
  # Where there are averages, they are what is read.
  after, _, _ = checkpoints.load_variables(
    workdir_lib.checkpoint_dir(workdir), 'latest'
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    start,
    after['params'],
  )
  with open(os.path.join(workdir, 'init.json'), encoding='utf-8') as f:
    record = json.load(f)
  assert record['path'] == donor and record['kept'] == []


@pytest.mark.full
def test_a_resumed_run_does_not_need_the_donor(smoke_run, data_dir, tmp_path):
  donor = str(tmp_path / 'donor')
  shutil.copytree(smoke_run.workdir, donor)
  config, workdir = start_from(donor, data_dir), str(tmp_path / 'run')
  train.train(config, workdir)
  shutil.rmtree(donor)
  assert train.train(config, workdir)['miou'] >= 0


@pytest.mark.full
def test_unfitting_weights_leave_no_work_directory(data_dir, tmp_path):
  path, workdir = str(tmp_path / 'a.safetensors'), str(tmp_path / 'run')
  safetensors.write_safetensors(path, {'x': np.zeros(1, np.float32)}, {})
  with pytest.raises(ValueError, match='no system names'):
    train.train(start_from(path, data_dir), workdir)
  assert not os.path.exists(workdir_lib.config_path(workdir))
