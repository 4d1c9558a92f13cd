"""The names under which activation ranges are saved."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from configs import common
from deeplab import networks
from deeplab.models import attention
from deeplab.models import layers
from deeplab.models import pooling
from deeplab.models import registry
from deeplab.models import resizing
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


# Qwix cannot quantize transposed convolutions.
@pytest.mark.parametrize('head', sorted({*heads_test.CASES} - {'erfnet'}))
def test_resize_stages_keep_the_names_of_ranges(head):
  once = _names(head, 0, (80, 80))
  assert len(once) > 30
  assert _names(head, 2, (160, 96)) == once


class EveryFunction(nn.Module):
  """Calls each function of our models that int8 graphs hold as one operator."""

  @nn.compact
  def __call__(self, x):
    conv = lambda i: layers.Conv(4, name=f'conv{i}')(x)
    return [
      pooling.adaptive_average_pool(conv(0), 3, False),
      pooling.adaptive_average_pool(conv(1), 1, True),
      pooling.average_pool(conv(2), (2, 2), (1, 1)),
      resizing.resize(conv(3), (3, 3)),
      layers.shared_relu(conv(4)),
      attention.GATES['clip'](jax.nn.hard_swish(conv(7))),
      attention.GATES['hard_sigmoid'](jax.nn.hard_swish(conv(8))),
      jax.nn.sigmoid(conv(5)),
      jax.nn.hard_swish(conv(6)),
    ]


def test_ranges_keep_the_names_they_are_saved_under():
  """Checkpoints hold them, whatever the functions are called."""
  net = providers.observe_ranges(EveryFunction(), rules.Rules())
  x = jnp.ones((1, 8, 8, 3))
  variables = net.init(jax.random.key(0), x)
  _, found = net.apply(variables, x, mutable=['observed'])
  names = {k for k, v in found['observed'].items() if 'min' in v}
  assert {name for name in names if not name.startswith('final_output')} == {
    *('bins0', 'bins1', 'windows0', 'resize0', 'shared_relu0', 'ramp0'),
    *('hard_sigmoid0', 'hard_swish0', 'hard_swish1', 'hard_swish2'),
    'sigmoid0',
  }
