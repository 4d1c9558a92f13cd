"""Every registered model builds, and its parameter count is pinned."""

import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from configs import common
from deeplab.models import registry
from deeplab.models.heads import deeplabv3plus
from tests.models.heads import head_cases

TESTS = pathlib.Path(__file__).parent / 'encoders'


def config(**fields):
  c = common.default_config().model
  for name, value in fields.items():
    c[name] = ConfigDict(value) if isinstance(value, dict) else value
  return c


def parameters(shapes):
  return sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))


def test_every_head_has_a_parameter_count():
  assert set(head_cases.HEAD_PARAMETERS) == set(registry.HEADS)


@pytest.mark.parametrize('name', registry.ENCODERS)
def test_encoder(name):
  cls = registry.ENCODERS[name]
  # The family's test file must pin the number of parameters.
  file = TESTS / f'{cls.__module__.rpartition(".")[2]}_test.py'
  text = file.read_text(encoding='utf-8')
  assert cls.__name__ in text
  assert 'encoder_cases.count(' in text
  # All encoders reach stride 8, and some end there.
  network = registry.build_model(
    config(encoder={'name': name}, output_stride=8), 3
  )
  features, shapes = jax.eval_shape(
    lambda x: network.encoder.init_with_output(jax.random.key(0), x, False),
    jax.ShapeDtypeStruct((1, 65, 41, 3), jnp.float32),
  )
  assert parameters(shapes) > 0
  assert len(features) >= 3
  sizes = [(33, 21), (17, 11), (9, 6), (9, 6), (9, 6)]
  assert [x.shape[1:3] for x in features] == sizes[: len(features)]


@pytest.mark.parametrize('name', registry.HEADS)
def test_head(name):
  network = registry.build_model(config(head={'name': name}), 3)
  features = tuple(
    jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    for size, channels in ((33, 16), (17, 24), (9, 32), (5, 96), (5, 320))
  )
  outputs, shapes = jax.eval_shape(
    lambda f: network.head.init_with_output(jax.random.key(0), f, False),
    features,
  )
  assert parameters(shapes) == head_cases.HEAD_PARAMETERS[name]
  assert {logits.shape[-1] for logits in outputs} == {3}


def test_config_fields_reach_the_modules():
  network = registry.build_model(
    config(
      encoder={'name': 'mobilenet_v2', 'alpha': 0.5},
      head={'name': 'deeplabv3plus', 'rates': (3, 5), 'align_corners': True},
      auxiliary={'name': 'fcn', 'channels': 7},
      output_stride=8,
      multi_grid=[1, 2, 4],
      resize_ratio=2,
      dtype='bfloat16',
      depthwise='shifted',
      pointwise='matmul',
    ),
    5,
    axis_name='batch',
  )
  assert network.num_classes == 5
  assert network.head.options.resize_ratio == 2
  assert network.encoder.options.resize_ratio == 2
  assert network.encoder.alpha == 0.5
  assert network.encoder.output_stride == 8
  assert network.encoder.multi_grid == (1, 2, 4)
  assert isinstance(network.head, deeplabv3plus.DeepLabV3Plus)
  assert network.head.rates == (3, 5)
  assert network.head.align_corners
  assert network.head.num_classes == network.auxiliary.num_classes == 5
  assert network.auxiliary.channels == 7
  for module in (network.encoder, network.head, network.auxiliary):
    assert module.options.dtype == 'bfloat16'
    assert module.options.axis_name == 'batch'
    assert module.options.depthwise == 'shifted'
    assert module.options.pointwise == 'matmul'


def test_implementation_of_convolution_can_be_set():
  c = config(depthwise='shifted', pointwise='matmul')
  options = registry.build_model(
    c, 2, depthwise='conv', pointwise='conv'
  ).encoder.options
  assert (options.depthwise, options.pointwise) == ('conv', 'conv')
  assert options.axis_name is None


def test_no_auxiliary_head_by_default():
  assert registry.build_model(config(), 2).auxiliary is None


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'encoder': {'name': 'vgg'}}, r"encoder\.name is 'vgg'.*xception_tiny"),
    ({'encoder': {}}, r'encoder\.name is missing'),
    ({'head': {'name': 'segnet'}}, r"head\.name is 'segnet'.*deeplabv3plus"),
    ({'auxiliary': {'name': 'non'}}, r"auxiliary\.name is 'non'.*'none'"),
    (
      {'head': {'name': 'fcn', 'chanels': 3}},
      r"head \(fcn\) has no field \['chanels'\].*'channels'",
    ),
    (
      {'encoder': {'name': 'mobilenet_v2', 'options': 3}},
      r"no field \['options'\]",
    ),
    ({'head': {'name': 'fcn', 'num_classes': 3}}, r"\['num_classes'\]"),
    ({'auxiliary': {'name': 'none', 'stage': 2}}, r"\['stage'\]"),
    ({'depthwise': 'fast'}, "depthwise='fast'"),
  ],
)
def test_unknown_names_and_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    registry.build_model(config(**fields), 2)


def test_config_fields_lists_defaults():
  fields = registry.config_fields(registry.HEADS['fcn'])
  assert fields == {
    'stage': 3,
    'channels': 256,
    'convs': 1,
    'dropout': 0.1,
    'dropout_channels': False,
    'bn_decay': 0.9,
    'bn_epsilon': 1e-5,
    'align_corners': False,
  }
