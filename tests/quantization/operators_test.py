import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.quantization import rules
from tests.quantization import nets

providers = pytest.importorskip('deeplab.quantization.providers')

RULES = rules.Rules()


def test_cpu_kernels_compute_the_same():
  net = nets.small()
  rest = nets.calibrated(net.model, RULES, net.variables, net.calibration)
  rest = {name: rest[name] for name in ('batch_stats', 'quant_stats')}
  images = jnp.asarray(np.stack(net.images[:2]), jnp.float32)
  images = (images - np.float32(nets.MEAN)) / np.float32(nets.STD)
  found = []
  for forms in ({}, {'depthwise': 'shifted', 'pointwise': 'matmul'}):
    model = providers.simulate(net.model, RULES, **forms)

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
