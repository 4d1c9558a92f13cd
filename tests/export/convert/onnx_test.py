"""ONNX files of int8 networks."""

import collections

import numpy as np
import pytest

from deeplab.inference import litert
from deeplab.inference import onnx as onnx_predictor
from export.convert import onnx
from tests.export import small

onnx_package = pytest.importorskip('onnx')


def write_card(folder):
  """Writes the model card of `small.int8`, with its I/O scales."""
  predictor = litert.TFLitePredictor(small.write(folder, small.int8()))
  tensor = lambda end: {
    'quantization': {'scale': end.scale, 'zero_point': end.zero_point}
  }
  small.write(
    folder,
    small.int8(),
    input=tensor(predictor._input),
    output_tensor=tensor(predictor._output),
  )


def test_every_kernel_has_a_zero_point_of_its_own():
  model = onnx_package.load_from_string(onnx.convert_tflite(small.int8()))
  kernels = {
    tensor.name
    for tensor in model.graph.initializer
    if tensor.data_type == onnx_package.TensorProto.INT8 and tensor.dims
  }
  uses = collections.Counter(i for node in model.graph.node for i in node.input)
  zero_points = [
    node.input[2]
    for node in model.graph.node
    if node.op_type == 'DequantizeLinear' and node.input[0] in kernels
  ]
  assert len(zero_points) == 3
  assert [uses[name] for name in zero_points] == [1, 1, 1]


def test_files_with_shared_zero_points_are_still_read(tmp_path, monkeypatch):
  """Exports were such files before kernels had zero points of their own."""
  write_card(tmp_path)
  path = tmp_path / 'x.onnx'
  outputs = []
  for _ in range(2):
    path.write_bytes(onnx.convert_tflite(small.int8()))
    outputs.append(onnx_predictor.ONNXPredictor(path)(small.image()[None]))
    monkeypatch.setattr(onnx, '_split_shared_zero_points', lambda _: None)
  expected = litert.TFLitePredictor(tmp_path / 'x.tflite')(small.image()[None])
  for output in outputs:
    assert np.mean(output.argmax(-1) == expected.argmax(-1)) > 0.99
