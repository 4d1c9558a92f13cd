"""Every head exports to builtin operators of devices with equal outputs."""

import jax
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

SIZE = (80, 80)  # 5 x 5 at output stride 16: the fewest rows of 'st_aspp'
MEAN, STD = running.MEAN, running.STD
# Neither matrix products (a resize that was not recognized) nor broadcasts,
# slices and reductions (what compilers for NPUs refuse).
OPERATORS = {
  'ADD',
  'AVERAGE_POOL_2D',
  'CONCATENATION',
  'CONV_2D',
  'DEPTHWISE_CONV_2D',
  'LOGISTIC',
  'MUL',
  'PAD',
  'RESIZE_BILINEAR',
  'SUB',
}
TF_LRASPP = {
  'name': 'lraspp',
  'gate': 'hard_sigmoid',
  'gate_bias': True,
  'align_corners': True,
  'pool_window': (3, 3),
  'pool_stride': (2, 2),
}
CASES = {name: {'name': name} for name in registry.HEADS} | {
  'lraspp_tf': TF_LRASPP,
  'st_aspp_v1': {'name': 'st_aspp', 'separable': False},
  # Grids of equal cells on a map of 5 x 5.
  'swiftnet': {'name': 'swiftnet', 'grids': (5, 1)},
}
# Operators of a single head.
_EXTRA_OPERATORS = {'erfnet': {'SLICE', 'TRANSPOSE_CONV'}}


@pytest.mark.full
@pytest.mark.parametrize('case', CASES)
def test_head(case, tmp_path):
  config = common.default_config().model
  config.encoder = {'name': 'mobilenet_v2_tiny'}
  config.head = CASES[case]
  network = registry.build_model(config, 5, depthwise='conv', pointwise='conv')
  variables = weights.draw(network, SIZE)
  request = request_lib.make_request(
    formats=('float32', 'int8'), input_size=SIZE, num_classes=5
  )
  compute = saved_model.make_serving_function(
    network, variables, request, MEAN, STD
  )
  path = str(tmp_path / 'saved_model')
  saved_model.write_saved_model(compute, (*SIZE, 3), path)
  *samples, image = source_lib.draw_synthetic_images(9, SIZE, 0)
  expected = np.asarray(jax.jit(compute)(np.float32(image)[None]))

  data = tflite.convert_saved_model(path, 'float32', request)
  found = tflite_graph.count_operators(tflite_graph.read_tflite(data))
  known = OPERATORS | _EXTRA_OPERATORS.get(case, set())
  assert set(found) <= known
  np.testing.assert_allclose(
    running.run(data, image, 5, tmp_path), expected, atol=1e-3
  )

  data = tflite.convert_saved_model(
    path,
    'int8',
    request,
    tflite.representative_dataset(samples, SIZE, True, MEAN, STD),
  )
  found = tflite_graph.count_operators(tflite_graph.read_tflite(data))
  assert set(found) <= known | {'QUANTIZE', 'DEQUANTIZE'}
  error = running.run(data, image, 5, tmp_path) - expected
  assert np.std(error) < 0.3 * np.std(expected)
