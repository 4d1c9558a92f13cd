"""What the light encoders become in an int8 graph: integer builtins only."""

from ml_collections import ConfigDict
import pytest

from configs import common
from deeplab.models import registry
from export import calibration
from export import graph as graph_lib
from export import request as request_lib
from export import saved_model
from export import tflite
from tests.export import weights

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
# Operators that NPU compilers and micro-controllers run.
KNOWN = {
  'ADD',
  'AVERAGE_POOL_2D',
  'CONCATENATION',
  'CONV_2D',
  'DEPTHWISE_CONV_2D',
  'HARD_SWISH',
  'MAX_POOL_2D',
  'MUL',
  'PACK',
  'QUANTIZE',
  'RESHAPE',
  'RESIZE_BILINEAR',
  'SPLIT',
  'STRIDED_SLICE',
}


def operators(encoder, size, tmp_path):
  c = common.base().model
  c.encoder = ConfigDict({'name': encoder})
  c.head = ConfigDict({'name': 'fcn', 'stage': 4, 'channels': 8, 'convs': 0})
  network = registry.build(c, 3, depthwise='conv', pointwise='conv')
  request = request_lib.make(
    ('int8',), size, 3, input_type='int8', output_type='int8'
  )
  compute = saved_model.function(
    network, weights.draw(network, size), request, MEAN, STD
  )
  saved_model.write(compute, size, str(tmp_path))
  samples = calibration.samples(
    calibration.synthetic(2, size, 0),
    size,
    request.normalization_in_graph,
    MEAN,
    STD,
  )
  data = tflite.convert(str(tmp_path), 'int8', request, samples)
  graph = graph_lib.read(data)
  assert max(len(tensor.shape) for tensor in graph.tensors) == 4
  return graph_lib.operators(graph)


@pytest.mark.full
@pytest.mark.parametrize('size', [(33, 65), (64, 32)])
@pytest.mark.parametrize(
  ('encoder', 'expected'),
  [
    ('mobilenet_v3_tiny', {}),
    ('shufflenet_v2_tiny', {}),
    ('ghostnet_tiny', {}),
  ],
)
def test_int8_operators(encoder, expected, size, tmp_path):
  found = operators(encoder, size, tmp_path)
  assert set(found) <= KNOWN
  assert {name: found.get(name) for name in expected} == expected
