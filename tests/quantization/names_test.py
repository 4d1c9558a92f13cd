"""Ranges have the same names whatever the steps of resizes."""

import flax
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from configs import common
from deeplab import networks
from deeplab.models import registry
from deeplab.quantization import rules
from tests.export import heads_test

providers = pytest.importorskip('deeplab.quantization.simulator.providers')


def _names(head, ratio, size):
  config = common.default_config().model
  config.encoder = ConfigDict({'name': 'mobilenet_v2_tiny'})
  config.head = ConfigDict(heads_test.CASES[head])
  config.resize_ratio = ratio
  network = registry.build_model(config, 3, **networks.PLAIN_CONV_OPTIONS)
  image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  variables = jax.eval_shape(network.init, jax.random.key(0), image)
  seen = providers.observe_ranges(network, rules.Rules())
  found = jax.eval_shape(
    lambda v, x: seen.apply(v, x, mutable=['observed'])[1]['observed'],
    variables,
    image,
  )
  return {path[:-1] for path in flax.traverse_util.flatten_dict(found)}


# Transposed convolutions have no int8 form.
@pytest.mark.parametrize('head', sorted({*heads_test.CASES} - {'erfnet'}))
def test_steps_of_resizes_move_no_name(head):
  once = _names(head, 0, (80, 80))
  assert len(once) > 30
  assert _names(head, 2, (160, 96)) == once
