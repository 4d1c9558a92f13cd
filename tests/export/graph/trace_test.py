"""Traced graphs against those that the converter makes of the same network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from deeplab.models import layers
from export.graph import memory
from export.graph import tflite_graph
from export.graph import trace
from tests.export.convert import tflite_test


def test_every_operator_of_the_model_family():
  graph = trace.trace_network(tflite_test.Net(), tflite_test.SIZE)
  found = tflite_graph.count_operators(graph)
  # The converter keeps the division by std in this network, and folds it into
  # the first convolution of others.
  assert found == {k: v for k, v in tflite_test.BODY.items() if k != 'MUL'}
  assert tflite_graph.count_macs(graph) == tflite_test.MACS


def trace_graph(function, shape=(1, 8, 8, 4), variables=()):
  return trace.trace_function(lambda _, x: function(x), variables, shape)


def test_memory_and_weights():
  """8x8x4 -> 3x3 convolution -> 8x8x6, plus itself after a depthwise one."""

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = layers.ConvBN(
        6, layers.BatchNormConfig(0.9, 1e-3), kernel=3, name='a'
      )(x, False)
      y = layers.Conv(6, kernel=3, groups=6, name='b')(x)
      return x + y

  net = Net()
  image = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), image)
  graph = trace.trace_function(net.apply, variables, (1, 8, 8, 4))
  assert [op.name for op in graph.operators] == [
    *('CONV_2D', 'DEPTHWISE_CONV_2D', 'ADD'),
  ]
  assert tflite_graph.weight_bytes(graph) == 6 * 36 + 24 + 9 * 6 + 24
  assert tflite_graph.count_macs(graph) == 64 * 6 * 36 + 64 * 6 * 9
  lives = memory.activation_lifetimes(graph)
  assert memory.live_bytes(lives) == [
    *(256 + 384, 2 * 384, 3 * 384, 384),
  ]


@pytest.mark.parametrize(
  ('function', 'names'),
  [
    (nn.relu6, []),
    (jax.nn.hard_swish, ['HARD_SWISH']),
    (lambda x: nn.avg_pool(x, (8, 8)), ['AVERAGE_POOL_2D']),
    (lambda x: nn.max_pool(x, (2, 2), (2, 2)), ['MAX_POOL_2D']),
    (lambda x: jnp.concatenate([x, x + 1.0], -1), ['CONCATENATION']),
    (lambda x: x * nn.sigmoid(x), ['LOGISTIC', 'MUL']),
  ],
)
def test_operators(function, names):
  assert [op.name for op in trace_graph(function).operators] == names


@pytest.mark.parametrize(
  ('padding', 'names'),
  [
    ('same', ['CONV_2D']),
    ('keras', ['CONV_2D']),
    ('symmetric', ['PAD', 'CONV_2D']),
  ],
)
def test_padding_of_a_strided_convolution(padding, names):
  """Symmetric padding of an even feature map needs a PAD operator."""
  conv = layers.Conv(4, kernel=3, stride=2, padding=padding)
  image = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
  variables = jax.eval_shape(conv.init, jax.random.key(0), image)
  graph = trace.trace_function(conv.apply, variables, (1, 8, 8, 4))
  assert [op.name for op in graph.operators] == names
  assert graph.tensors[graph.outputs[0]].shape == (1, 4, 4, 4)
