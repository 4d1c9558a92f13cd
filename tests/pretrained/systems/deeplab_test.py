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
from deeplab.pretrained import merge
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.systems import deeplab
from deeplab.training import checkpoints
from tests import runs


def test_a_run_is_written_as_a_file(smoke_run, tmp_path):
  path = str(tmp_path / 'weights.safetensors')
  deeplab.write_run_weights(smoke_run.workdir, 'best', path)
  texts = safetensors.read_metadata(path)
  assert json.loads(texts['config'])['name'] == smoke_run.config.name
  assert json.loads(texts['classes'])[:2] == ['background', 'disc']
  assert texts['step'] == '6'
  tensors = safetensors.read_safetensors(path)
  ours = merge.flatten_variables(
    workdir_lib.load_trained_model(smoke_run.workdir).variables
  )
  assert tensors.keys() == ours.keys()
  for name, value in tensors.items():
    np.testing.assert_array_equal(value, ours[name])


@pytest.mark.full
def test_the_command(smoke_run, tmp_path):
  path = str(tmp_path / 'weights.safetensors')
  command = [sys.executable, '-m', 'deeplab.pretrained.save']
  subprocess.run(
    [*command, f'--workdir={smoke_run.workdir}', f'--output={path}'], check=True
  )
  assert safetensors.read_metadata(path)['step'] == '6'
  done = subprocess.run(
    [*command, f'--output={path}'], capture_output=True, text=True, check=False
  )
  assert 'Error: --workdir and --output are needed' in done.stderr


def test_another_suffix_fails(tmp_path):
  with pytest.raises(ValueError, match=r'weights\.pth must end in'):
    deeplab.write_run_weights('nowhere', 'best', str(tmp_path / 'weights.pth'))


def start_from(donor, data_dir):
  """Returns a config that barely changes the donor's weights."""
  return runs.config(
    data_dir,
    init_from=donor,
    ema_decay=0.9,
    total_steps=1,
    optimizer__learning_rate=1e-9,
  )


def test_a_run_starts_from_another(smoke_run, data_dir, tmp_path):
  workdir = str(tmp_path / 'run')
  train.train(start_from(smoke_run.workdir, data_dir), workdir)
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
  assert record['path'] == smoke_run.workdir and record['kept'] == []


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
