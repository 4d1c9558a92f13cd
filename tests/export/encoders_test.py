"""Every encoder family exports to integer builtins with equal outputs."""

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import common
from deeplab.models import registry
from export import request as request_lib
from export import source as source_lib
from export.convert import saved_model
from export.convert import tflite
from export.graph import tflite_graph
from tests.export import running
from tests.export import weights

MEAN, STD = running.MEAN, running.STD
# Operators that NPU compilers and micro-controllers run.
KNOWN = {
  'ADD',
  'AVERAGE_POOL_2D',
  'CONCATENATION',
  'CONV_2D',
  'DEPTHWISE_CONV_2D',
  'HARD_SWISH',
  'LOGISTIC',
  'MAXIMUM',
  'MAX_POOL_2D',
  'MUL',
  'PACK',
  'PAD',
  'RELU',
  'RESHAPE',
  'RESIZE_BILINEAR',
  'SLICE',
  'SPLIT',
  'STRIDED_SLICE',
  'SUB',
}


@pytest.mark.full
@pytest.mark.parametrize(
  ('encoder', 'output_stride', 'size'),
  [
    *(
      (encoder, output_stride, size)
      for encoder, output_stride in (
        ('mobilenet_v2_tiny', 16),
        ('mobilenet_v3_tiny', 16),
        ('resnet_tiny', 16),
        ('regnetx_tiny', 16),
        ('shufflenet_v2_tiny', 16),
        ('ghostnet_tiny', 16),
        ('xception_tiny', 16),
        ('xception_keras_tiny', 8),
        ('xception_keras_tiny', 32),
        ('erfnet_tiny', 8),
      )
      for size in ((33, 65), (64, 32))
    ),
    # At other sizes its pooling cells are uneven and need many operators.
    ('lite_hrnet_tiny', 32, (64, 32)),
  ],
)
def test_encoder(encoder, output_stride, size, tmp_path):
  config = common.default_config().model
  config.encoder = ConfigDict({'name': encoder})
  config.output_stride = output_stride
  # The finest stage that depends on all layers.
  stage = {'erfnet_tiny': 2, 'lite_hrnet_tiny': 1}.get(encoder, 4)
  config.head = ConfigDict(
    {'name': 'fcn', 'stage': stage, 'channels': 8, 'convs': 0}
  )
  network = registry.build_model(config, 3, depthwise='conv', pointwise='conv')
  variables = weights.draw(network, size)
  path = str(tmp_path / 'saved_model')
  request = request_lib.make_request(
    formats=('float32',), input_size=size, num_classes=3
  )
  compute = saved_model.make_serving_function(
    network, variables, request, MEAN, STD
  )
  saved_model.write_saved_model(compute, (*size, 3), path)
  *samples, image = source_lib.draw_synthetic_images(3, size, 0)
  expected = np.asarray(jax.jit(compute)(np.float32(image)[None]))
  data = tflite.convert_saved_model(path, 'float32', request)
  actual = running.run(data, image, 3, tmp_path)
  assert expected.std() > 1e-2
  np.testing.assert_allclose(
    actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max()
  )

  request = request_lib.make_request(
    formats=('int8',),
    input_size=size,
    num_classes=3,
    input_type='int8',
    output_type='int8',
  )
  compute = saved_model.make_serving_function(
    network, variables, request, MEAN, STD
  )
  path = str(tmp_path / 'int8')
  saved_model.write_saved_model(compute, (*size, 3), path)
  data = tflite.convert_saved_model(
    path,
    'int8',
    request,
    tflite.representative_dataset(
      samples, size, request.normalization_in_graph, MEAN, STD
    ),
  )
  graph = tflite_graph.read_tflite(data)
  assert max(len(tensor.shape) for tensor in graph.tensors) == 4
  found = tflite_graph.count_operators(graph)
  assert set(found) <= KNOWN | {'QUANTIZE'}
