import jax
import numpy as np
import pytest

from deeplab.quantization import folding
from tests.quantization import nets


@pytest.fixture(scope='module')
def small():
  return nets.small()


def test_every_convolution_with_a_norm_is_found(small):
  found = folding.pairs(small.model, small.variables)
  assert len(found) == 11
  assert found['encoder', 'down', 'depthwise', 'conv'] == (
    ('encoder', 'down', 'depthwise', 'norm', 'bn'),
    1e-3,
  )
  assert ('head', 'classifier') not in found  # it has a bias alone


def test_the_function_is_the_same(small):
  folded = folding.fold(small.model, small.variables)
  x = np.float32(np.random.default_rng(1).normal(size=(2, 33, 40, 3)))
  run = jax.jit(lambda v: small.model.apply(v, x).logits)
  before, after = run(small.variables), run(folded)
  assert np.abs(before).max() > 1
  np.testing.assert_allclose(before, after, atol=1e-4)
  stem = folded['params']['encoder']['stem']
  np.testing.assert_array_equal(stem['norm']['bn']['scale'], 1.0)
  old = small.variables['params']['encoder']['stem']['conv']['kernel']
  assert np.abs(stem['conv']['kernel'] - old).max() > 0.01


def test_a_bias_before_the_norm_is_folded_too():
  model = nets.build(use_bias=True)
  x = np.float32(np.random.default_rng(1).normal(size=(2, 33, 40, 3)))
  variables = nets.variables(model, x)
  folded = folding.fold(model, variables)
  run = jax.jit(lambda v: model.apply(v, x).logits)
  np.testing.assert_allclose(run(variables), run(folded), atol=1e-4)
