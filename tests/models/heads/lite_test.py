"""Texas Instruments' lite decoders."""

import jax
import pytest

from deeplab.models import layers
from deeplab.models.heads import lite
from tests.models.heads import head_cases

HEADS = (lite.DeepLabV3Lite, lite.UNetLite, lite.FPNLite)
CHANNELS = (2, 4, 6, 8, 10)


def make(head, **fields):
  return head(**({'num_classes': 3, 'channels': 8} | fields))


@pytest.mark.parametrize(
  ('head', 'size'),
  [
    (lite.DeepLabV3Lite, (17, 13)),
    (lite.UNetLite, (33, 25)),
    (lite.FPNLite, (17, 13)),
  ],
)
def test_logits_have_the_finest_size(head, size):
  (out,), _ = head_cases.trace(make(head), head_cases.features(CHANNELS))
  assert out.shape == (2, *size, 3)
  (out,), _ = head_cases.trace(
    make(head, low_level_stage=2), head_cases.features(CHANNELS)
  )
  assert out.shape == (2, 9, 7, 3)


# Published totals, less the encoder's: MobileNetV2's 1,811,712, and RegNetX'
# 4,772,512, 6,586,656, 8,277,136 and 14,287,552.
MOBILENET = (16, 24, 32, 96, 320)


@pytest.mark.parametrize(
  ('head', 'channels', 'classes', 'fields', 'count'),
  [
    (lite.DeepLabV3Lite, MOBILENET, 32, {}, 617_264),
    (lite.UNetLite, MOBILENET, 32, {}, 666_136),
    (lite.FPNLite, MOBILENET, 32, {}, 860_992),
    (lite.FPNLite, (32, 32, 64, 160, 384), 32, {'group_size': 16}, 1_249_024),
    (lite.FPNLite, (32, 64, 128, 288, 672), 32, {'group_size': 16}, 1_727_424),
    (
      lite.FPNLite,
      (32, 72, 168, 408, 912),
      19,
      {'group_size': 24, 'channels': 264},
      2_459_496,
    ),
    (
      lite.FPNLite,
      (32, 96, 192, 432, 1008),
      19,
      {'group_size': 48, 'channels': 288},
      3_773_376,
    ),
  ],
)
def test_parameters(head, channels, classes, fields, count):
  module = head(num_classes=classes, **fields)
  _, variables = head_cases.trace(module, head_cases.features(channels))
  assert head_cases.count(variables) == count


def test_parameter_paths():
  pyramid = {'aspp_conv', 'aspp_projection'} | {
    f'aspp_atrous{i}' for i in range(3)
  }
  own = {
    lite.DeepLabV3Lite: {'low_level'},
    lite.UNetLite: {f'decoder{i}' for i in range(4)},
    lite.FPNLite: {
      f'{k}{i}' for k in ('lateral', 'decoder') for i in (1, 2, 3)
    },
  }
  for head in HEADS:
    _, variables = head_cases.trace(make(head), head_cases.features(CHANNELS))
    assert set(variables['params']) == pyramid | own[head] | {
      'smooth',
      'classifier',
    }


@pytest.mark.parametrize('head', HEADS)
def test_convolutions(head):
  """Rates, groups, and no bias anywhere."""
  channels = (4, 8, 16, 16, 24)
  found = head_cases.calls(
    make(head, group_size=4, low_level_channels=8)
    if head is lite.DeepLabV3Lite
    else make(head, group_size=4, num_classes=16),
    head_cases.features(channels),
  )
  assert not any(conv.use_bias for _, conv in found)
  for name, conv in found:
    if conv.kernel == 3:
      assert conv.features // conv.groups == 4, name
    else:
      assert (conv.kernel, conv.groups, conv.rate) == (1, 1, 1), name
  rates = [conv.rate for _, conv in found if conv.kernel == 3]
  assert rates[:3] == [6, 12, 18]
  assert set(rates[3:]) == {1}


def test_unet_channels():
  """The most of the finer map's channels, twice the classes, and 32."""
  _, variables = head_cases.trace(
    lite.UNetLite(num_classes=20), head_cases.features(MOBILENET)
  )
  widths = [
    variables['params'][f'decoder{i}']['pointwise']['conv']['kernel'].shape[-1]
    for i in (3, 2, 1, 0)
  ]
  assert widths == [96, 40, 40, 40]


@pytest.mark.parametrize('head', HEADS)
def test_activations(head):
  found = head_cases.calls(
    make(head, activation='relu6'),
    head_cases.features(CHANNELS),
    layers.BatchNorm,
  )
  linear = [name for name, m in found if m.activation == 'none']
  assert linear == ['smooth/norm']
  assert {m.activation for _, m in found} == {'none', 'relu6'}
  with pytest.raises(ValueError, match="activation='swish'"):
    head_cases.trace(
      make(head, activation='swish'), head_cases.features(CHANNELS)
    )


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('train', [False, True])
def test_dropout_in_training_only(head, train, dropout_calls):
  keys = jax.random.split(jax.random.key(0), 2)
  maps = head_cases.features(CHANNELS)
  jax.eval_shape(lambda: make(head).init(jax.random.key(0), maps, train, keys))
  ((rate, used),) = dropout_calls
  assert rate == 0.2
  assert (used is not None) == train


@pytest.mark.parametrize('head', HEADS)
def test_invalid_fields_fail(head):
  maps = head_cases.features(CHANNELS)
  with pytest.raises(ValueError, match='low_level_stage=4'):
    head_cases.trace(make(head, low_level_stage=4), maps)
  with pytest.raises(ValueError, match='group_size=7 does not divide the 10'):
    head_cases.trace(make(head, group_size=7), maps)


@pytest.mark.parametrize(
  'head', [pytest.param(h, marks=pytest.mark.full) for h in HEADS]
)
def test_trains(head):
  head_cases.assert_trains(
    make(head, rates=(1, 2)), head_cases.features(CHANNELS, seed=0)
  )
