"""A whole export: files, model cards, labels, report; nothing on failure."""

import json
import os
import pathlib
import subprocess
import sys

from ai_edge_litert import schema_py_generated as schema
import flax.traverse_util
import jax
import numpy as np
import pytest

from configs import common
from deeplab.data import datasets
from deeplab.inference import load
from deeplab.inference import model_card
from deeplab.models import registry
from deeplab.quantization.ptq import batch_norm_folding
from export import file_formats
from export import frozen_model
from export import pipeline
from export import request as request_lib
from export import source as source_lib
from export.convert import tflite
from export.devices import fit
from export.devices import measure
from export.graph import memory
from export.graph import tflite_graph
from export.graph import trace
from tests.export import weights

SIZE = (33, 33)


def config():
  c = common.default_config()
  c.name = 'tiny'
  c.model.encoder = {'name': 'mobilenet_v2_tiny'}
  c.model.head = {'name': 'deeplabv3plus', 'channels': 8}
  c.model.depthwise = c.model.pointwise = 'conv'  # compile faster
  c.eval.static_size = SIZE
  c.eval.scales = (0.5, 1.0)  # what a file of static size cannot do
  c.eval.flip = True
  return c.lock()


@pytest.fixture(scope='module')
def source():
  return weights.make_source(config(), 7, '/somewhere/runs/tiny')


def request(*formats):
  return request_lib.make_request(
    formats=formats, input_size=SIZE, num_classes=6
  )


@pytest.fixture(scope='module')
def exported(source, tmp_path_factory):
  """An export whose labels are JAX's own predictions."""
  model = source.network.export_model()
  data = source.config.data
  mean, std = np.float32(data.mean), np.float32(data.std)
  logits = jax.jit(lambda x: model.apply(source.variables, x).logits)
  images = source_lib.draw_synthetic_images(10, SIZE, 5)
  examples = [
    {
      'image': x,
      'label': np.uint8(logits((x[None] - mean) / std)[0].argmax(-1)),
      'name': str(i),
    }
    for i, x in enumerate(images)
  ]
  folder = str(tmp_path_factory.mktemp('parent') / 'exports' / 'tiny')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets.Dataset, 'examples', lambda *_, **__: iter(examples))
    patch.setattr(datasets.Dataset, 'num_examples', lambda *_: len(examples))
    patch.setattr(
      datasets.Dataset,
      'calibration_images',
      lambda _, n, seed: iter(source_lib.draw_synthetic_images(n, (40, 50), 1)),
    )
    patch.setattr(measure, 'ACCELERATORS', ('ethos-u85-256',))
    asked = request('float32', 'int8', 'onnx')
    report = pipeline.export_model(
      source,
      asked,
      folder,
      num_calibration_images=12,
      evaluate_files=True,
      eval_limit=9,
      check_devices=True,
    )
  return folder, report


def test_files_of_an_export(exported):
  folder, report = exported
  assert sorted(os.listdir(folder)) == [
    '.deeplab.jsonl',
    'errors_int8.png',
    'float32.json',
    'float32.tflite',
    'int8.json',
    'int8.tflite',
    'labels.txt',
    'memory_int8.png',
    'onnx_float32.json',
    'onnx_float32.onnx',
    'onnx_int8.json',
    'onnx_int8.onnx',
    'overlays.png',
    'report.html',
    'report.json',
    'report.md',
  ]
  assert os.listdir(os.path.dirname(folder)) == ['tiny']
  with open(os.path.join(folder, 'report.json'), encoding='utf-8') as f:
    assert json.load(f) == report
  with open(os.path.join(folder, 'labels.txt'), encoding='utf-8') as f:
    assert f.read().split('\n') == [
      'background',
      *('disc', 'square', 'triangle', 'ring', 'cross', ''),
    ]


def test_the_file_holds_rounded_kernels(source, exported):
  """They hold the integers that GPTQ chose, not the nearest ones."""
  folder, report = exported
  assert "kernels rounded by 'least_squares'" in ' '.join(report['notes'])
  images = source_lib.draw_synthetic_images(12, (40, 50), 1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      datasets.Dataset, 'calibration_images', lambda *_: iter(images)
    )
    model = frozen_model.FrozenModel(
      source, request('int8'), num_calibration_images=12
    )
    rounded = model.integer_weights
  nearest = batch_norm_folding.fold_batch_norms(
    model.network, source.float_variables
  )

  def integers(variables):
    found = []
    params = flax.traverse_util.flatten_dict(variables['params'])
    for path, kernel in params.items():
      if path[-1] == 'kernel' and path[0] != 'auxiliary':
        steps = kernel / (np.abs(kernel).max((0, 1, 2)) / 127)
        depthwise = kernel.shape[2] == 1
        order = (2, 0, 1, 3) if depthwise else (3, 0, 1, 2)
        found.append(np.rint(steps).astype(np.int8).transpose(order).tobytes())
    return found

  with open(os.path.join(folder, 'int8.tflite'), 'rb') as f:
    file = schema.ModelT.InitFromPackedBuf(f.read(), 0)
  buffers = {
    bytes(np.uint8(b.data)) for b in file.buffers if b.data is not None
  }
  chosen = integers(rounded)
  assert len(chosen) > 10 and set(chosen) <= buffers
  assert not set(integers(nearest)) <= buffers


def test_report_of_the_formats(exported):
  folder, report = exported
  formats = report['formats']
  for kind in ('float32', 'int8'):
    entry = formats[kind]
    path = os.path.join(folder, entry['file'])
    assert entry['file_bytes'] == os.path.getsize(path)
    assert entry['macs'] == report['model']['macs']
    assert entry['params'] == report['model']['params']
    assert set(entry['operator_dtypes']) == set(entry['operators'])
    bound = entry['activation_lower_bound_bytes']
    assert bound <= entry['peak_activation_bytes'] < 1.2 * bound, kind
  assert 'PAD' not in formats['int8']['operators']  # 33 is k * 32 + 1
  ratio = formats['int8']['weight_bytes'] / formats['float32']['weight_bytes']
  assert 0.25 < ratio < 0.3  # weights a quarter, biases as they were
  # All weights in float, a bias for each convolution, and a few shapes.
  assert formats['float32']['weight_bytes'] > 3.8 * report['model']['params']


def test_quality_is_scored_by_one_protocol(exported):
  _, report = exported
  assert report['jax']['miou'] > 0.999  # its own labels
  float32, int8 = (report['formats'][k] for k in ('float32', 'int8'))
  assert float32['miou'] > 0.99
  assert float32['parity']['images'] == 8
  assert float32['parity']['max_abs_difference'] < 1e-4
  assert int8['parity']['argmax_agreement'] > 0.9
  assert int8['miou_difference_points'] == pytest.approx(
    100 * (int8['miou'] - report['jax']['miou'])
  )
  onnx = [report['formats'][f'onnx_{k}']['miou'] for k in ('float32', 'int8')]
  assert onnx[0] > 0.99
  assert onnx[1] == pytest.approx(int8['miou'], abs=0.03)
  assert 'the first 9' in ' '.join(report['notes'])


def test_agreement_per_class(exported):
  """JAX's own labels: the agreement per class is then its accuracy."""
  _, report = exported
  int8 = report['formats']['int8']
  assert 0.9 < int8['agreement']['all'] < 1
  assert report['jax']['iou'][0] > 0.999
  seen = [x for x in int8['agreement']['classes'] if x is not None]
  assert len(seen) == len([x for x in report['jax']['iou'] if x is not None])
  assert report['formats']['float32']['agreement']['all'] > 0.999


def test_device_checks(exported):
  folder, report = exported
  found = report['proof']['int8']
  formats = report['formats']
  assert all(formats[k]['latency_ms'] > 0 for k in ('float32', 'int8'))
  # Our plan against TFLite Micro's own, where there is one.
  int8 = report['formats']['int8']
  assert max(found['memory']['bytes']) == int8['activation_lower_bound_bytes']
  if 'arena' in found['micro']:
    assert found['micro']['arena']['head'] >= int8['peak_activation_bytes']
    counts = {k: x['count'] for k, x in found['micro']['operators'].items()}
    assert counts == int8['operators']
    assert sum(found['micro']['histogram'].values()) == 2 * 33 * 33 * 6
  npu = found['npu']['ethos-u85-256']
  assert npu['macs'] > 0.5 * int8['macs']
  # 300 multiplications a cycle at 1 GHz.
  assert found['estimates']['stm32n6'] == pytest.approx(int8['macs'] / 3e8)
  with open(os.path.join(folder, 'report.html'), encoding='utf-8') as f:
    page = f.read()
  assert page.count('<img') == page.count('src="data:image/png;base64,') == 3
  assert 'ethos-u85-256</td>' in page


def test_cards(exported):
  folder, report = exported
  card = model_card.read_card(os.path.join(folder, 'int8.tflite'))
  assert card['input_size'] == [33, 33]
  assert card['normalization_in_graph'] is True
  assert card['mean'] == [123.675, 116.28, 103.53]
  assert card['classes'][1] == 'disc'
  assert card['palette'][0] == [0, 0, 0]
  assert card['input']['dtype'] == 'uint8'
  assert card['input']['quantization'] == {'scale': 1.0, 'zero_point': 0}
  assert card['output_tensor']['shape'] == [1, 33, 33, 6]
  assert card['miou'] == report['formats']['int8']['miou']
  assert card['source'] == {
    'config': 'tiny',
    'trained': True,
    'step': 7,
    'run': 'tiny',
  }


def test_markdown_agrees_with_json(exported):
  folder, report = exported
  with open(os.path.join(folder, 'report.md'), encoding='utf-8') as f:
    text = f.read()
  assert text.startswith('# Export of tiny\n')
  for entry in report['formats'].values():
    assert f'{entry["file_bytes"]:,}' in text
    assert f'{entry["miou"]:.4f}' in text
  assert '| RESIZE_BILINEAR ' in text


def test_a_refused_file_leaves_nothing(source, tmp_path, monkeypatch):
  def refuse(*_):
    raise tflite_graph.BadGraph('CUSTOM:FlexErf (makes tensor "x") is foreign')

  monkeypatch.setattr(tflite, 'convert_saved_model', refuse)
  monkeypatch.setattr(source_lib, 'parity_images', lambda *_: [])
  with pytest.raises(tflite_graph.BadGraph, match='FlexErf'):
    pipeline.export_model(
      source,
      request('float32'),
      str(tmp_path / 'out'),
      num_calibration_images=1,
      evaluate_files=False,
      eval_limit=0,
    )
  assert os.listdir(tmp_path) == []


@pytest.fixture(scope='module')
def aligned():
  """An untrained network; Ethos-U55 takes all its resizes but the last."""
  c = config().unlock()
  c.model.output_stride = 16
  c.model.head = {
    'name': 'deeplabv3',
    'channels': 8,
    'rates': (1, 2, 3),
    'align_corners': True,
  }
  registry.fill_defaults(c.model)
  c.eval.static_size = (65, 65)
  return weights.make_source(c)


def ask(target, **kwargs):
  return request_lib.make_request(
    formats=('int8',),
    input_size=(65, 65),
    num_classes=6,
    target=target,
    **kwargs,
  )


def test_a_target_limits_the_resize_ratio(aligned, tmp_path):
  """5 -> 65 is a ratio of 16, which it refuses; in two steps it is 4."""
  request = ask('ethos-u55-128')
  out = str(tmp_path / 'out')
  report = pipeline.export_model(
    aligned,
    request,
    out,
    num_calibration_images=2,
    evaluate_files=False,
    eval_limit=0,
  )
  compiled = report['target']['int8']['compiled']
  assert compiled['refused'] == []
  int8 = report['formats']['int8']
  assert int8['operators']['RESIZE_BILINEAR'] == 3  # one of the pooled vector
  assert (int8['input']['dtype'], int8['output']['dtype']) == ('int8', 'int8')
  notes = ' '.join(report['notes'])
  assert 'enlarges by at most 8, because ethos-u55-128' in notes
  assert 'the same function' in notes


@pytest.mark.full
def test_litert_converter_makes_the_same_network(aligned, tmp_path):
  """Resizes suit the target, and outputs are those of the simulation."""
  pytest.importorskip('qwix')
  request = request_lib.make_request(
    formats=('int8', 'int8_litert'),
    input_size=(65, 65),
    num_classes=6,
    target='ethos-u55-128',
  )
  report = pipeline.export_model(
    aligned,
    request,
    str(tmp_path / 'out'),
    num_calibration_images=2,
    evaluate_files=False,
    eval_limit=0,
  )
  found = report['formats']['int8_litert']
  assert found['operators']['RESIZE_BILINEAR'] == 3
  assert (found['input']['dtype'], found['output']['dtype']) == ('int8', 'int8')
  beside = found['simulation']['beside']
  assert list(beside) == ['reference', 'default', 'tflm']
  assert [x['images'] for x in beside.values()] == [8, 8, 8]
  assert beside['reference']['within_one'] >= 0.998
  assert beside['reference']['max_steps'] <= 2
  assert report['formats']['int8']['simulation'] is None
  notes = ' '.join(report['notes'])
  assert "ranges of int8_litert were estimated by 'mse' on 2 synthetic" in notes
  assert 'are the minimum and maximum over 2 synthetic images' in notes
  assert '## Simulation' in (tmp_path / 'out/report.md').read_text()


@pytest.fixture(scope='module')
def plain(aligned, tmp_path_factory):
  """The same network exported for no target: folder and report."""
  request = request_lib.make_request(
    formats=('int8', 'onnx', 'c'),
    input_size=(65, 65),
    num_classes=6,
    input_type='int8',
    output_type='int8',
  )
  folder = tmp_path_factory.mktemp('plain') / 'out'
  return folder, pipeline.export_model(
    aligned,
    request,
    str(folder),
    num_calibration_images=2,
    evaluate_files=False,
    eval_limit=0,
  )


def test_traced_shapes_agree_with_the_file(aligned, plain):
  """The device search counts what the converter writes, without converting."""
  int8 = plain[1]['formats']['int8']
  graph = trace.trace_network(aligned.network.export_model(), (65, 65))
  assert tflite_graph.count_macs(graph) == int8['macs']
  operators = dict(int8['operators'])
  operators.pop('MUL', 0)  # by 1 / std, which is folded elsewhere
  assert tflite_graph.count_operators(graph) == operators
  activations = memory.activation_lifetimes(graph)
  bound = int8['activation_lower_bound_bytes']
  assert memory.lower_bound(activations) == bound
  assert memory.plan_arena(activations) == int8['peak_activation_bytes']


def test_the_host_resizes(aligned, tmp_path):
  request = ask('stm32n6', resize='host')
  out = str(tmp_path / 'out')
  report = pipeline.export_model(
    aligned,
    request,
    out,
    num_calibration_images=2,
    evaluate_files=False,
    eval_limit=0,
  )
  assert report['formats']['int8']['output']['shape'] == [1, 5, 5, 6]
  assert report['formats']['int8']['parity']['argmax_agreement'] > 0.5
  assert report['target']['int8']['compiled'] is None


def test_onnx_and_c_are_derived_from_tflite(plain):
  folder, report = plain
  formats = report['formats']
  assert list(formats) == ['int8', 'onnx_float32', 'onnx_int8']
  float_parity = formats['onnx_float32']['parity']
  assert float_parity['max_abs_difference'] < 1e-4
  # The same arithmetic but for rounding.
  int8, onnx = (formats[k]['parity'] for k in ('int8', 'onnx_int8'))
  assert onnx['mean_abs_difference'] < 2 * int8['mean_abs_difference']
  assert formats['onnx_int8']['operators']['QuantizeLinear'] > 10
  assert formats['onnx_int8']['operator_dtypes']['Conv'] == {
    'opset 17': formats['onnx_int8']['operators']['Conv']
  }
  header = (folder / 'c' / 'model.h').read_text()
  assert f'MODEL_BYTES {formats["int8"]["file_bytes"]}\n' in header
  assert load.load_predictor(folder / 'onnx_int8.onnx').input_size == (65, 65)


def test_a_format_that_nothing_here_can_run(source, tmp_path, monkeypatch):
  """It is written, and has no model card and no row."""

  def convert(model, file):
    params = model.source.float_variables['params']
    np.savez(file.path, **flax.traverse_util.flatten_dict(params, sep='/'))

  entry = file_formats.Format('npz', '.npz', convert)
  monkeypatch.setitem(file_formats.FORMATS, 'npz', entry)
  folder = tmp_path / 'out'
  report = pipeline.export_model(
    source,
    request('npz'),
    str(folder),
    num_calibration_images=0,
    evaluate_files=False,
    check_devices=True,
  )
  assert report['formats'] == {}
  assert sorted(os.listdir(folder)) == [
    '.deeplab.jsonl',
    'labels.txt',
    'npz.npz',
    'report.html',
    'report.json',
    'report.md',
  ]
  kernel = np.load(folder / 'npz.npz')['encoder/stem/conv/kernel']
  assert kernel.shape == (3, 3, 3, 8)


def test_what_does_not_fit_leaves_nothing(aligned, tmp_path):
  request = ask('cortex-m7', ram_kib=20)
  with pytest.raises(fit.DoesNotFit, match=r'need .* of RAM, it has 20.0 KiB'):
    pipeline.export_model(
      aligned,
      request,
      str(tmp_path / 'out'),
      num_calibration_images=2,
      evaluate_files=False,
      eval_limit=0,
    )
  assert os.listdir(tmp_path) == []


def run_main(*args):
  return subprocess.run(
    [sys.executable, '-m', 'export.main', *args],
    cwd=pathlib.Path(__file__).resolve().parents[2],
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.full
def test_command_without_data(tmp_path):
  """An untrained model in the default formats; int8 is reproducible."""
  results = []
  for name in ('one', 'two'):
    done = run_main(
      '--config=configs/shapes_mnv2.py:smoke',
      f'--output={tmp_path / name}',
      '--num_calibration_images=3',
      '--config.seed=4',
    )
    assert done.returncode == 0, done.stderr
    assert 'int8' in done.stdout
    results.append((tmp_path / name / 'int8.tflite').read_bytes())
  assert results[0] == results[1]
  report = json.loads((tmp_path / 'one' / 'report.json').read_text())
  assert list(report['formats']) == list(file_formats.DEFAULT_FORMATS)
  for entry in report['formats'].values():
    assert entry['miou'] is None
  assert 'untrained' in report['notes'][0]
  assert '3 synthetic images (seed 4)' in report['notes'][1]


@pytest.mark.full
@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ((), 'pass --weights'),
    (('--weights=nowhere', '--output=O'), 'nowhere'),
    (('--config=configs/shapes_mnv2.py', '--output=O', '--eval'), '--eval'),
    (
      (
        '--config=configs/shapes_mnv2.py',
        '--output=O',
        '--formats=float32',
        '--input_type=uint8',
      ),
      'needs int8 or int8_litert among --formats',
    ),
  ],
)
def test_command_refusals(args, message):
  done = run_main(*args)
  assert done.returncode != 0
  assert message in done.stderr
  assert 'Traceback' not in done.stderr
