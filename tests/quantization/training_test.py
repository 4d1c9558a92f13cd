"""A whole run in simulated int8, from a float one, and its export."""

import json
import os

import jax
import numpy as np
import pytest

from deeplab import evaluate
from deeplab import workdir as workdir_lib
from deeplab.training import checkpoints
from export import pipeline
from export import request as request_lib
from export import source as source_lib
from tests import runs

pytest.importorskip('qwix')


def _fields(smoke_run):
  return {
    'init_from': smoke_run.workdir,
    'quantization__name': 'int8',
    'quantization__calibration__images': 4,
    'quantization__range_steps': 3,
    'ema_decay': 0.9,
    'total_steps': 4,
  }


@pytest.fixture(scope='module')
def quantized(smoke_run, data_dir, tmp_path_factory):
  workdir = str(tmp_path_factory.mktemp('int8') / 'run')
  return runs.smoke(workdir, data_dir, **_fields(smoke_run))


@pytest.mark.full
def test_every_field_is_read(quantized):
  leaves = runs.leaves(quantized.config.quantization, 'quantization.')
  # The percentile is read where the method needs it, and elsewhere.
  assert leaves <= quantized.read


@pytest.mark.full
def test_evaluation_repeats_the_score_of_training(quantized):
  loaded = workdir_lib.load_trained_model(quantized.workdir, 'latest')
  assert set(loaded.variables) == {'params', 'batch_stats', 'quant_stats'}
  found = evaluate.evaluate_workdir(quantized.workdir, which='latest')
  assert found['checkpoint'].metrics['miou'] == quantized.metrics['miou']


@pytest.mark.full
def test_resume_is_bitwise_equal(quantized, smoke_run, data_dir, tmp_path):
  half = str(tmp_path / 'run')

  class Stopped(Exception):
    pass

  save = checkpoints.Checkpoints.save

  def stop(self, state, step, *args):
    save(self, state, step, *args)
    if step == 2:
      raise Stopped

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoints.Checkpoints, 'save', stop)
    with pytest.raises(Stopped):
      runs.smoke(half, data_dir, **_fields(smoke_run))
  runs.smoke(half, data_dir, **_fields(smoke_run))
  one, two = (
    workdir_lib.load_trained_model(w, 'latest').variables
    for w in (quantized.workdir, half)
  )
  jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.full
def test_the_file_scores_as_the_simulation(quantized, tmp_path):
  source = source_lib.load_trained(quantized.workdir, 'latest')
  size = tuple(source.config.eval.static_size)
  output = str(tmp_path / 'out')
  request = request_lib.make_request(
    formats=('int8_litert', 'int16x8'),
    input_size=size,
    num_classes=source.dataset.info.num_classes,
    input_type='int8',
    output_type='int8',
  )
  pipeline.export_model(
    source,
    request,
    output,
    num_calibration_images=4,
    evaluate_files=True,
    eval_limit=8,
  )
  with open(os.path.join(output, 'report.json'), encoding='utf-8') as f:
    report = json.load(f)
  found = report['formats']
  simulation = found['int8_litert']['simulation']
  reference = simulation['beside']['reference']
  assert reference['images'] == 8  # of the evaluation
  assert reference['same'] == 1.0  # bit by bit
  assert reference['miou'] == pytest.approx(simulation['miou'], abs=1e-6)
  # What any evaluation of the run computes, as a file does.
  assert report['jax']['arithmetic'] == 'simulated int8'
  assert report['jax']['miou'] == pytest.approx(simulation['miou'], abs=1e-6)
  assert found['int8_litert']['input']['dtype'] == 'int8'
  assert found['int16x8']['operator_dtypes']['CONV_2D'].keys() == {'int16'}
