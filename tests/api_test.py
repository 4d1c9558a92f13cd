"""`Model.export`: one file with its card, which `deeplab.load` reads."""

import json

import numpy as np
import pytest

from configs import common
import deeplab
from deeplab import workdir as workdir_lib
from deeplab.data import datasets
from deeplab.pretrained import model_folder
from export import pipeline
from tests.export import weights

SIZE = (33, 33)
CLASSES = ['background', 'disc', 'square', 'triangle', 'ring', 'cross']


@pytest.fixture(name='folder', scope='module')
def fixture_folder(tmp_path_factory):
  """A saved model of random weights, and a folder of photographs."""
  c = common.default_config()
  c.model.encoder = {'name': 'mobilenet_v2_tiny'}
  c.model.head = {'name': 'deeplabv3plus', 'channels': 8}
  c.eval.static_size, c.eval.mode = SIZE, 'static'
  source = weights.make_source(c.lock())
  folder = tmp_path_factory.mktemp('api')
  model_folder.write_model_folder(
    workdir_lib.TrainedModel(
      c, datasets.Dataset(c.data), source.variables, None, float('nan')
    ),
    folder / 'model',
  )
  (folder / 'photographs').mkdir()
  for i in range(4):
    weights.write_photograph(folder / 'photographs' / f'{i}.png', i, SIZE)
  return folder


@pytest.fixture(name='model', scope='module')
def fixture_model(folder):
  return deeplab.load(folder / 'model')


@pytest.fixture(name='requests')
def fixture_requests(monkeypatch):
  """Requests that reach the pipeline, which makes no file."""
  seen = []

  def export_model(source, request, output, **_):
    seen.append((source, request))
    raise InterruptedError(output)

  monkeypatch.setattr(pipeline, 'export_model', export_model)
  return seen


@pytest.mark.parametrize(
  ('name', 'calibrated', 'expected'),
  [
    ('mine.tflite', True, 'int8'),
    ('mine.tflite', False, 'float32'),
    ('int8_litert.tflite', True, 'int8_litert'),
    ('float16.tflite', False, 'float16'),
    ('int8.tflite', False, 'int8'),
    ('mine.onnx', True, 'onnx_int8'),
    ('mine.onnx', False, 'onnx_float32'),
  ],
)
def test_the_name_tells_the_format(
  model, folder, requests, tmp_path, name, calibrated, expected
):
  photographs = folder / 'photographs' if calibrated else None
  with pytest.raises(InterruptedError):
    model.export(tmp_path / name, calibration=photographs, output='argmax')
  ((source, request),) = requests
  assert request.formats == (expected,)
  assert (request.input_size, request.output) == (SIZE, 'argmax')
  assert source.is_trained and not source.has_labels
  assert source.calibration_folder == str(photographs or '')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('name', 'calibrated', 'message'),
  [
    ('mine.pb', True, r'mine\.pb: the name of an exported .* \.onnx or \.tfli'),
    ('float16.tflite', True, 'has no effect on float16: name the file int8'),
    ('int8.tflite', False, '^int8: there are no images to calibrate on'),
  ],
)
def test_impossible_files(model, folder, tmp_path, name, calibrated, message):
  photographs = folder / 'photographs' if calibrated else None
  with pytest.raises(ValueError, match=message):
    model.export(tmp_path / name, calibration=photographs)
  assert list(tmp_path.iterdir()) == []


def test_files_of_the_user_are_kept(model, requests, tmp_path):
  (tmp_path / 'mine.json').write_text('mine')
  with pytest.raises(ValueError, match=r'mine\.json exists, and this command'):
    model.export(tmp_path / 'mine.tflite')
  assert requests == []
  with pytest.raises(InterruptedError):
    model.export(tmp_path / 'mine.tflite', overwrite=True)
  assert (tmp_path / 'mine.json').read_text() == 'mine'


@pytest.mark.full
def test_a_file_and_its_card(model, folder, tmp_path):
  path = tmp_path / 'new' / 'mine.tflite'
  report = model.export(path, calibration=folder / 'photographs')
  assert sorted(p.name for p in path.parent.iterdir()) == [
    *('.deeplab.jsonl', 'mine.json', 'mine.tflite')
  ]
  assert f'4 of 4 images of the folder `{folder / "photographs"}`' in (
    ' '.join(report['notes'])
  )
  card = json.loads((path.parent / 'mine.json').read_text())
  assert (card['file'], card['format'], card['miou']) == (
    *('mine.tflite', 'int8', None),
  )
  exported = deeplab.load(path)
  assert list(exported.class_names) == CLASSES
  same = [
    exported.predict(image) == model.predict(image)
    for image in (folder / 'photographs').iterdir()
  ]
  parity = report['formats']['int8']['parity']
  assert np.mean(same) == pytest.approx(parity['argmax_agreement'])
  with pytest.raises(ValueError, match=r'mine\.tflite is an exported file'):
    exported.export(tmp_path / 'again.tflite')
