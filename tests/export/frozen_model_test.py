"""The model as files hold it."""

import jax
import numpy as np
import pytest

from configs import common
from deeplab.data import datasets
from deeplab.quantization.ptq import batch_norm_folding
from export import frozen_model
from export import request as request_lib
from tests.export import weights

SIZE = (33, 33)


def config():
  c = common.default_config()
  c.model.encoder = {'name': 'mobilenet_v2_tiny'}
  c.model.head = {'name': 'deeplabv3plus', 'channels': 8}
  c.eval.static_size = SIZE
  return c.lock()


def freeze(source, *formats, **options):
  request = request_lib.make_request(
    formats=formats, input_size=SIZE, num_classes=6
  )
  return frozen_model.FrozenModel(source, request, **options)


def test_facts_of_the_source():
  c = config()
  model = freeze(weights.make_source(c), 'float32')
  assert model.input_shape == (33, 33, 3)
  assert (model.mean, model.std) == (tuple(c.data.mean), tuple(c.data.std))
  assert model.max_value == 255
  assert model.resize_ratio == c.model.resize_ratio
  assert model.network is model.network  # built once
  params = jax.tree.leaves(model.source.variables['params'])
  assert model.cost.params <= sum(x.size for x in params)


def test_float_files_read_no_data_set(monkeypatch):
  monkeypatch.setattr(datasets.Dataset, 'calibration_images', None)
  source = weights.make_source(config(), 7, '/runs/tiny')
  assert freeze(source, 'float32').calibration_images == []
  with pytest.raises(TypeError):
    _ = freeze(source, 'int8', num_calibration_images=2).calibration_images


def test_an_untrained_model_needs_no_data_set():
  """Images are synthetic, kernels are rounded to the nearest integer."""
  source = weights.make_source(config())
  model = freeze(source, 'int8', num_calibration_images=3)
  assert [x.shape for x in model.calibration_images] == [(33, 33, 3)] * 3
  folded = batch_norm_folding.fold_batch_norms(
    model.network, source.float_variables
  )
  jax.tree.map(np.testing.assert_array_equal, model.integer_weights, folded)
