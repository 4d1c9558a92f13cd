import flax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models.encoders import shufflenet_v2
from tests.models.encoders import encoder_cases

ShuffleNet = shufflenet_v2.ShuffleNetV2
Tiny = shufflenet_v2.ShuffleNetV2Tiny


def test_parameter_counts_equal_the_published():
  # torchvision's 2,278,604 without its classifier of 1024 * 1000 + 1000, and
  # without the last convolution of 464 * 1024 + 2 * 1024. MobileSeg's
  # 1,113,224 has 336,804 in its head.
  assert encoder_cases.count(ShuffleNet(top_conv=True))[0] == 1_253_604
  assert encoder_cases.count(ShuffleNet())[0] == 776_420


def test_maps():
  assert encoder_cases.shapes(ShuffleNet(32), 65, 64) == [
    (33, 32, 24),
    (17, 16, 24),
    (9, 8, 116),
    (5, 4, 232),
    (3, 2, 464),
  ]
  assert encoder_cases.shapes(ShuffleNet(8, top_conv=True), 64, 65)[-1] == (
    8,
    9,
    1024,
  )


def test_module_names():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny())['params'], sep='/'
  )
  assert flat['stem/conv/kernel'].shape == (3, 3, 3, 8)
  assert flat['unit_0/expand/conv/kernel'].shape == (1, 1, 8, 6)
  assert flat['unit_0/shortcut_depthwise/conv/kernel'].shape == (3, 3, 1, 8)
  assert flat['unit_0/shortcut_project/conv/kernel'].shape == (1, 1, 8, 6)
  assert flat['unit_1/depthwise/conv/kernel'].shape == (3, 3, 1, 6)
  assert flat['unit_1/project/norm/bn/scale'].shape == (6,)
  assert 'unit_1/shortcut_project/conv/kernel' not in flat
  assert {path.split('/')[0] for path in flat} == {
    'stem',
    *(f'unit_{i}' for i in range(5)),
  }


def test_interleave_equals_the_channel_shuffle():
  a, b = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 5))
  together = np.concatenate([a, b], axis=-1)
  shuffled = together.reshape(2, 3, 4, 2, 5).swapaxes(-1, -2)
  np.testing.assert_array_equal(
    shufflenet_v2.interleave_channels(np.float32(a), np.float32(b)),
    np.float32(shuffled.reshape(2, 3, 4, 10)),
  )


@pytest.mark.parametrize(
  ('padding', 'size', 'output_strides'),
  [
    ('same', (33, 65), (8, 16)),
    ('symmetric', (64, 50), (4, 8, 16)),
    pytest.param('symmetric', (43, 44), (4, 8, 16), marks=pytest.mark.full),
  ],
)
def test_atrous_consistency(padding, size, output_strides):
  encoder = lambda output_stride: Tiny(output_stride, padding=padding)
  weights, x = encoder_cases.variables(encoder(32)), encoder_cases.images(*size)
  coarse = encoder_cases.features(encoder(32), weights, x)
  for output_stride in output_strides:
    fine = encoder_cases.features(encoder(output_stride), weights, x)
    encoder_cases.assert_subsampled(fine, coarse, output_stride)


@pytest.mark.parametrize(
  ('encoder', 'plan'),
  [
    # A strided unit has two depthwise layers.
    (
      ShuffleNet(32),
      [
        *((2, 1), (2, 1), *(3 * [(1, 1)])),
        *((2, 1), (2, 1), *(7 * [(1, 1)])),
        *((2, 1), (2, 1), *(3 * [(1, 1)])),
      ],
    ),
    (
      ShuffleNet(16),
      [
        *((2, 1), (2, 1), *(3 * [(1, 1)])),
        *((2, 1), (2, 1), *(7 * [(1, 1)])),
        *((1, 1), (1, 1), *(3 * [(1, 2)])),
      ],
    ),
    (
      ShuffleNet(8),
      [
        *((2, 1), (2, 1), *(3 * [(1, 1)])),
        *((1, 1), (1, 1), *(7 * [(1, 2)])),
        *((1, 2), (1, 2), *(3 * [(1, 4)])),
      ],
    ),
    (
      ShuffleNet(16, multi_grid=(1, 2, 4)),
      [
        *((2, 1), (2, 1), *(3 * [(1, 1)])),
        *((2, 1), (2, 1), *(7 * [(1, 1)])),
        *((1, 1), (1, 1), (1, 2), (1, 4), (1, 8)),
      ],
    ),
  ],
)
def test_rates(encoder, plan):
  assert encoder_cases.depthwise_plan(encoder) == plan


def test_trains():
  encoder_cases.assert_trains(Tiny())


def test_bfloat16():
  encoder_cases.assert_bfloat16(Tiny(options=layers.Options(dtype='bfloat16')))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'repeats': (1, 2)}, r'repeats=\(1, 2\) must name'),
    ({'repeats': (1, 0, 2)}, 'repeats='),
    ({'channels': (8, 12, 16)}, r'channels=\(8, 12, 16\) must be four'),
    ({'channels': (8, 12, 15, 24)}, 'channels='),
    ({'padding': 'valid'}, "padding='valid'"),
    ({'output_stride': 2}, 'output_stride=2'),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)
