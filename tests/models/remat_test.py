"""Rematerialized blocks change memory use and nothing else."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import common
from deeplab.models import layers
from deeplab.models import output_stride
from deeplab.models import registry
from deeplab.models.encoders import resnet

QUICK = ('resnet_tiny', 'shufflenet_v2_tiny')
TINY = [
  pytest.param(name, marks=() if name in QUICK else pytest.mark.full)
  for name in registry.ENCODERS
  if name.endswith('_tiny')
]


def _residual_bytes(name, remat):
  """Returns the bytes of residuals of an encoder's backward pass."""
  config = common.default_config().model
  config.encoder = ConfigDict({'name': name})
  config.remat = remat
  config.output_stride = 8
  encoder = registry.build_model(config, 3).encoder
  images = jax.ShapeDtypeStruct((2, 65, 65, 3), jnp.float32)

  def pull(images):
    variables = encoder.init(jax.random.key(0), images, False)
    stats = variables.get('batch_stats', {})

    def run(params):
      return encoder.apply(
        {'params': params, 'batch_stats': stats},
        images,
        True,
        mutable=['batch_stats'],
      )[0]

    return jax.vjp(run, variables['params'])[1]

  leaves = jax.tree.leaves(jax.eval_shape(pull, images))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


@pytest.mark.parametrize('name', TINY)
def test_every_encoder_stores_fewer_residuals(name):
  assert _residual_bytes(name, 5) < 0.75 * _residual_bytes(name, 0)


def test_stages_are_counted_from_the_finest():
  kept = [_residual_bytes('mobilenet_v2_tiny', n) for n in (0, 1, 2, 5)]
  assert kept == sorted(kept, reverse=True)
  assert kept[2] < 0.7 * kept[0]


def test_gradients_and_statistics_are_the_same():
  images = jax.random.normal(jax.random.key(1), (2, 9, 9, 4))
  conv = resnet.ConvSpec(4, 3, output_stride.StrideRate(1, 1))
  results = []
  for remat in (0, 1):
    options = layers.Options(remat=remat)
    block = options.maybe_remat(resnet.ResidualUnit, 0)(
      (conv, conv),
      shortcut='sum',
      norm=layers.BatchNormConfig(0.9, 1e-3),
      use_bias=False,
      padding='same',
      options=options,
    )
    variables = block.init(jax.random.key(0), images, False)

    def loss(params, block=block, variables=variables):
      out, updates = block.apply(
        {**variables, 'params': params}, images, True, mutable=['batch_stats']
      )
      return jnp.square(out).sum(), updates

    results.append(jax.grad(loss, has_aux=True)(variables['params']))
  assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    *results,
  )


def test_a_negative_number_of_stages_fails():
  with pytest.raises(ValueError, match='remat=-1 is negative'):
    layers.Options(remat=-1)
