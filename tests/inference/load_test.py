"""Exported files by their suffix, and ONNX Runtime against LiteRT."""

import hashlib
import json
import pathlib

import numpy as np
import pytest

from deeplab.inference import litert
from deeplab.inference import load
from export.convert import onnx
from tests.export import small
from tests.inference import concurrency

pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module', params=['float32', 'int8'])
def pair(request, tmp_path_factory):
  """Folder with one network as .tflite and .onnx, and its card."""
  folder = tmp_path_factory.mktemp(request.param)
  content = small.int8(request.param)
  path = small.write(folder, content)
  predictor = litert.TFLitePredictor(path)
  card = json.loads((folder / 'x.json').read_text())
  for key, detail in (
    ('input', predictor._input),
    ('output_tensor', predictor._output),
  ):
    scale = {'scale': float(detail.scale), 'zero_point': detail.zero_point}
    card[key] = {'quantization': scale if detail.scale else None}
  (folder / 'x.json').write_text(json.dumps(card))
  (folder / 'x.onnx').write_bytes(onnx.convert_tflite(content))
  return folder


def test_onnx_computes_the_same(pair):
  images = np.stack([small.image(i) for i in range(3)])
  tflite = load.load_predictor(pair / 'x.tflite')
  onnx = load.load_predictor(pair / 'x.onnx')
  assert (tflite.resolver, onnx.resolver) == ('default', 'onnxruntime')
  assert onnx.input_size == small.SIZE
  expected, result = tflite(images), onnx(images)
  lsb = np.diff(np.unique(expected)).min()
  assert np.abs(result - expected).max() < 2.5 * lsb
  assert np.mean(np.abs(result - expected) < 0.5 * lsb) > 0.8
  ids = onnx.with_output('argmax')(images)
  np.testing.assert_array_equal(ids, result.argmax(-1))


def test_threads_get_the_outputs_of_their_own_images(pair):
  images = [small.image(i)[None] for i in range(concurrency.THREADS)]
  wrong = concurrency.count_wrong(load.load_predictor(pair / 'x.onnx'), images)
  assert wrong == [0] * concurrency.THREADS


def test_summary_of_a_file(pair):
  summary = onnx.summarize_onnx((pair / 'x.onnx').read_bytes())
  assert summary['opset'] == 17
  assert summary['operators']['Conv'] == 3
  assert summary['operators']['DequantizeLinear'] > 5
  # Kernels in int8, biases in int32.
  assert 216 + 72 + 80 + 4 * 21 < summary['weight_bytes'] < 3000


def test_damaged_files_are_errors(pair, tmp_path):
  content = (pair / 'x.onnx').read_bytes()
  (tmp_path / 'x.onnx').write_bytes(content[: len(content) // 2])
  card = json.loads((pair / 'x.json').read_text())
  (tmp_path / 'x.json').write_text(json.dumps(card))
  with pytest.raises(ValueError, match='ONNX Runtime cannot load'):
    load.load_predictor(tmp_path / 'x.onnx')
  card['sha256'] = hashlib.sha256(content).hexdigest()
  (tmp_path / 'x.json').write_text(json.dumps(card))
  with pytest.raises(ValueError, match='damaged or was replaced'):
    load.load_predictor(tmp_path / 'x.onnx')


@pytest.mark.parametrize(
  ('dtype', 'shape', 'sizes', 'reason'),
  [
    (
      'FLOAT16',
      (1, 8, 8, 3),
      (1, 8, 8, 3),
      r'tensor\(float16\) of shape \[1, 8',
    ),
    (
      'FLOAT',
      (1, 'h', 8, 3),
      (1, 8, 8, 3),
      r"of shape \[1, 'h', 8, 3\]; known are",
    ),
    ('FLOAT', (1, 8, 8, 3), (1, 7, 7, 3), 'ONNX Runtime cannot run .*Reshape'),
  ],
)
def test_onnx_files_of_other_forms_are_named(
  tmp_path, dtype, shape, sizes, reason
):
  from onnx import TensorProto
  from onnx import helper

  kind = getattr(TensorProto, dtype)
  node = helper.make_node('Reshape', ['image', 'w'], ['map'])
  graph = helper.make_graph(
    [node],
    'main',
    [helper.make_tensor_value_info('image', kind, shape)],
    [helper.make_tensor_value_info('map', kind, None)],
    [helper.make_tensor('w', TensorProto.INT64, [4], sizes)],
  )
  opsets = [helper.make_opsetid('', 17)]
  model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
  (tmp_path / 'x.onnx').write_bytes(model.SerializeToString())
  card = {
    'input_size': [8, 8],
    'value_range': [0, 255],
    'mean': [0.0] * 3,
    'std': [1.0] * 3,
    'normalization_in_graph': True,
    'output': 'logits',
    'classes': ['a', 'b', 'c'],
    'palette': [[0, 0, 0], [1, 1, 1], [2, 2, 2]],
  }
  (tmp_path / 'x.json').write_text(json.dumps(card))
  with pytest.raises(ValueError, match=reason) as error:
    load.load_predictor(tmp_path / 'x.onnx')(np.zeros((1, 8, 8, 3), np.uint8))
  assert 'x.onnx' in str(error.value)


def test_unknown_suffix():
  with pytest.raises(ValueError, match=r'x\.pb does not end in one of .tflite'):
    load.load_predictor(pathlib.Path('x.pb'))
