"""The whole path: train, predict, export, and score both by one protocol."""

import json
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from deeplab import evaluate
from deeplab import predict
from deeplab.data import datasets
from export import pipeline as build
from export import request as request_lib
from export import source as source_lib

ROOT = os.path.dirname(
  os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)


@pytest.fixture(scope='module')
def exported(smoke_run, tmp_path_factory):
  """Returns (folder, report) of the smoke run's int8 export."""
  source = source_lib.load_trained(smoke_run.workdir, 'best')
  assert source.is_trained and source.step == 6
  size = tuple(source.config.eval.static_size)
  request = request_lib.make_request(
    formats=('int8',),
    input_size=size,
    num_classes=source.dataset.info.num_classes,
  )
  folder = str(tmp_path_factory.mktemp('exported') / 'smoke')
  return folder, build.export_model(
    source,
    request,
    folder,
    num_calibration_images=6,
    evaluate_files=True,
    eval_limit=0,
  )


def test_the_file_scores_as_its_report_says(smoke_run, exported):
  folder, report = exported
  path = os.path.join(folder, 'int8.tflite')
  results = evaluate.evaluate_workdir(smoke_run.workdir, tflite=path)
  assert set(results) == {'checkpoint_64x64', 'int8'}
  assert {r.examples for r in results.values()} == {100}
  assert results['int8'].metrics['miou'] == report['formats']['int8']['miou']
  float_miou = results['checkpoint_64x64'].metrics['miou']
  np.testing.assert_allclose(float_miou, report['jax']['miou'], atol=1e-9)
  assert report['formats']['int8']['parity']['argmax_agreement'] > 0.5
  for name in results:
    written = os.path.join(smoke_run.workdir, 'eval', name, 'metrics.json')
    with open(written, encoding='utf-8') as f:
      assert json.load(f)['miou'] == pytest.approx(
        results[name].metrics['miou'], abs=1e-12
      )


def test_run_and_file_predict(smoke_run, exported, tmp_path):
  folder, _ = exported
  example = next(
    source_lib.load_trained(smoke_run.workdir, 'best').dataset.examples('val')
  )
  path = str(tmp_path / 'photo.png')
  Image.fromarray(example['image'][:100]).save(path)
  masks = [
    predict.load_segmenter(smoke_run.workdir).predict(path),
    predict.from_tflite(os.path.join(folder, 'int8.tflite')).predict(path),
  ]
  for mask in masks:
    assert mask.dtype == np.uint8 and mask.shape == (100, 128)
    assert mask.max() < 6


def test_a_file_of_another_step_is_not_compared(smoke_run, exported, tmp_path):
  folder, _ = exported
  for name in ('int8.tflite', 'int8.json'):
    with open(os.path.join(folder, name), 'rb') as f:
      (tmp_path / name).write_bytes(f.read())
  card = json.loads((tmp_path / 'int8.json').read_text())
  card['source']['step'] = 4
  (tmp_path / 'int8.json').write_text(json.dumps(card))
  with pytest.raises(ValueError, match=r'of step 4, and the .* of step 6'):
    evaluate.evaluate_workdir(
      smoke_run.workdir, tflite=str(tmp_path / 'int8.tflite')
    )


def test_an_export_that_needs_no_images_reads_no_data_set(
  smoke_run, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    datasets, 'prepare_builder', None
  )  # fails where it is called
  source = source_lib.load_trained(smoke_run.workdir, 'best')
  request = request_lib.make_request(
    formats=('float32',), input_size=(64, 64), num_classes=6
  )
  folder = str(tmp_path / 'out')
  report = build.export_model(
    source,
    request,
    folder,
    num_calibration_images=1,
    evaluate_files=False,
    eval_limit=0,
  )
  assert 'parity was measured on synthetic images' in ' '.join(report['notes'])
  assert report['formats']['float32']['parity']['max_abs_difference'] < 1e-4


@pytest.mark.full
def test_the_quick_start_reaches_its_scores(tmp_path):
  """With the settings of a user: no compiler flags of the tests."""
  clean = {
    k: v
    for k, v in os.environ.items()
    if k not in ('XLA_FLAGS', 'JAX_PLATFORMS', 'JAX_COMPILATION_CACHE_DIR')
  }
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'experiments.quickstart'),
      f'--workdir={tmp_path / "run"}',
    ],
    cwd=ROOT,
    env=clean,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  found = re.search(r'mIoU float ([\d.]+), int8 ([\d.]+)', done.stdout)
  float_miou, int8_miou = (float(x) for x in found.groups())
  assert float_miou > 0.85
  assert abs(float_miou - int8_miou) < 0.01
