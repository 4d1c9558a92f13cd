import flax.linen as nn
import jax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.quantization.ptq import batch_norm_folding
from tests.quantization import nets


@pytest.fixture(scope='module')
def small():
  return nets.small()


def test_finds_every_convolution_with_batch_norm(small):
  found = batch_norm_folding.find_batch_norms(small.model, small.variables)
  assert len(found) == 14
  assert found['encoder', 'down', 'depthwise', 'conv'] == (
    ('encoder', 'down', 'depthwise', 'norm', 'bn'),
    1e-3,
  )
  assert ('head', 'classifier') not in found  # it has a bias alone


def test_folding_keeps_the_function(small):
  folded = batch_norm_folding.fold_batch_norms(small.model, small.variables)
  x = np.float32(np.random.default_rng(1).normal(size=(2, 33, 40, 3)))
  run = jax.jit(lambda v: small.model.apply(v, x).logits)
  before, after = run(small.variables), run(folded)
  assert np.abs(before).max() > 1
  np.testing.assert_allclose(before, after, atol=1e-4)
  stem = folded['params']['encoder']['stem']
  np.testing.assert_array_equal(stem['norm']['bn']['scale'], 1.0)
  old = small.variables['params']['encoder']['stem']['conv']['kernel']
  assert np.abs(stem['conv']['kernel'] - old).max() > 0.01


class Biased(nn.Module):
  """A convolution with a bias before its BatchNorm."""

  @nn.compact
  def __call__(self, x):
    norm = layers.BatchNormConfig(0.9, 1e-3)
    return layers.ConvBN(4, norm, kernel=3, use_bias=True, name='c')(x, False)


def test_folds_a_bias_before_batch_norm():
  rng = np.random.default_rng(1)
  x = np.float32(rng.normal(size=(1, 9, 9, 3)))
  drawn = jax.tree.map(
    lambda leaf: np.float32(rng.uniform(0.5, 1.5, leaf.shape)),
    Biased().init(jax.random.key(0), x),
  )
  folded = batch_norm_folding.fold_batch_norms(Biased(), drawn)
  assert set(batch_norm_folding.find_batch_norms(Biased(), drawn)) == {
    ('c', 'conv')
  }
  # Outputs near 0 are differences of large terms, so that the error is relative
  # to the sum of the terms' absolute values. All variables are positive: that
  # sum is the output for |x| with the mean's sign changed. A term passes a
  # product, at most 27 sums, bias, mean, factor and shift in each network, and
  # about ten roundings in the folding: under 80 of half an epsilon, whatever
  # the order in which a processor adds.
  absolute = jax.tree.map(np.copy, drawn)
  stats = absolute['batch_stats']['c']['norm']['bn']
  stats['mean'] = -stats['mean']
  bound = 40 * np.finfo(np.float32).eps * Biased().apply(absolute, np.abs(x))
  error = np.abs(Biased().apply(drawn, x) - Biased().apply(folded, x))
  assert np.all(error <= bound)
  assert bound.max() < 1e-3 * drawn['params']['c']['conv']['bias'].min()
  # The BatchNorm's shift is all: files hold one bias, rounded once.
  np.testing.assert_array_equal(folded['params']['c']['conv']['bias'], 0)
