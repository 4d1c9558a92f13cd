import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models import pooling
from deeplab.quantization import rules
from tests.quantization import nets

providers = pytest.importorskip('deeplab.quantization.simulator.providers')

RULES = rules.Rules()


def test_cpu_kernels_compute_the_same():
  net = nets.small()
  rest = nets.calibrated(net.model, RULES, net.variables, net.calibration)
  rest = {name: rest[name] for name in ('batch_stats', 'quant_stats')}
  images = jnp.asarray(np.stack(net.images[:2]), jnp.float32)
  images = (images - np.float32(nets.MEAN)) / np.float32(nets.STD)
  found = []
  for forms in ({}, {'depthwise': 'shifted', 'pointwise': 'matmul'}):
    model = providers.simulate_int8(net.model, RULES, **forms)

    def loss(params, model=model):
      logits = model.apply({'params': params, **rest}, images).logits
      return jnp.mean(jnp.square(logits)), logits

    both = jax.value_and_grad(loss, has_aux=True)
    grouped = 'feature_group_count=8' in str(
      jax.make_jaxpr(both)(net.variables['params'])
    )
    assert grouped == (not forms)
    found.append(jax.jit(both)(net.variables['params']))
  (one, gradient), (other, gradient_too) = found
  np.testing.assert_array_equal(one[1], other[1])
  assert np.ptp(one[1]) > 0
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    gradient,
    gradient_too,
  )


class Mean(nn.Module):
  """A convolution to values from 0 to 6, and the mean over the map."""

  @nn.compact
  def __call__(self, x):
    x = layers.Conv(x.shape[-1], groups=x.shape[-1], name='conv')(x)
    return pooling.adaptive_average_pool(x, 1, False)


@pytest.mark.parametrize('x64', [False, True])
def test_means_round_halves_away_from_zero(x64):
  """Away from the zero of the integers, as in AVERAGE_POOL_2D."""
  whole = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 500))
  # The last pixel makes the mean a half, where it can.
  last = whole[0, -1, -1] + 128 - whole.sum((0, 1, 2)) % 256
  whole[0, -1, -1] = np.where((last >= 0) & (last < 256), last, 0)
  mean = whole.mean((0, 1, 2))
  assert np.sum(mean % 1 == 0.5) > 100
  net = providers.simulate_int8(Mean(), RULES, (0.0, 255.0))
  x = jnp.asarray(whole, jnp.float32)
  variables = net.init(jax.random.key(0), x)
  span = {'min': jnp.float32(0), 'max': jnp.float32(6)}
  stats = jax.tree.map(
    lambda _: span, variables['quant_stats'], is_leaf=lambda x: 'min' in x
  )
  params = {'conv': {'kernel': jnp.full((1, 1, 1, 500), 6 / 255)}}
  with jax.enable_x64(x64):
    found = jax.jit(net.apply)({'params': params, 'quant_stats': stats}, x)
  raw = mean - 128
  expected = np.sign(raw) * np.floor(np.abs(raw) + 0.5) + 128
  steps = np.rint(np.ravel(found) * 255 / 6)
  np.testing.assert_array_equal(steps, expected)


class Biased(nn.Module):
  """A convolution to two channels."""

  @nn.compact
  def __call__(self, x):
    return layers.Conv(2, use_bias=True, name='conv')(x)


@pytest.mark.parametrize('wide', ['', '.*'])
def test_the_bias_of_a_dead_channel_fits_int32(wide):
  """The scale of a channel of almost no weight is bounded from below."""
  x = jnp.linspace(0, 6, 64).reshape(1, 8, 8, 1)
  kernel = jnp.asarray([[[[1.0, 1e-6]]]])
  params = {'conv': {'kernel': kernel, 'bias': jnp.full(2, 0.5)}}
  net = providers.simulate_int8(Biased(), rules.Rules(wide_layers=wide))
  variables = net.init(jax.random.key(0), x)
  span = {'min': jnp.float32(0), 'max': jnp.float32(7)}
  stats = jax.tree.map(
    lambda _: span, variables['quant_stats'], is_leaf=lambda x: 'min' in x
  )
  found = net.apply({'params': params, 'quant_stats': stats}, x)
  np.testing.assert_allclose(found[..., 1], 0.5, atol=0.02)
  np.testing.assert_allclose(found[..., :1], x + 0.5, atol=0.05)
