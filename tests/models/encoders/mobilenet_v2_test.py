import flax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models.encoders import mobilenet_v2
from tests.models.encoders import encoder_cases

Tiny = mobilenet_v2.MobileNetV2Tiny


@pytest.mark.parametrize(
  ('alpha', 'params', 'statistics'),
  [
    # Sums are Keras' totals: 410,208, 706,224, 1,382,064, 2,257,984 and
    # 4,363,712 without the classifier.
    (0.35, 396_128, 14_080),
    (0.5, 687_680, 18_544),
    (0.75, 1_355_424, 26_640),
    (1.0, 2_223_872, 34_112),
    (1.4, 4_315_776, 47_936),
  ],
)
def test_parameter_counts_equal_keras(alpha, params, statistics):
  encoder = mobilenet_v2.MobileNetV2(alpha=alpha, top_conv=True)
  assert encoder_cases.count(encoder) == (params, statistics)


def test_parameter_counts_without_top():
  # 320 * 1280 + 2 * 1280 fewer.
  assert encoder_cases.count(mobilenet_v2.MobileNetV2())[0] == 1_811_712
  # TF's dm05 model of 0.697 M has 219,925 in its head.
  slim = mobilenet_v2.MobileNetV2(alpha=0.5, rounding='slim')
  assert encoder_cases.count(slim)[0] == 477_088


def test_slim_does_not_round_channels():
  slim = mobilenet_v2.MobileNetV2(output_stride=32, alpha=0.5, rounding='slim')
  assert encoder_cases.shapes(slim, 33, 33) == [
    (17, 17, 8),
    (9, 9, 12),
    (5, 5, 16),
    (3, 3, 48),
    (2, 2, 160),
  ]
  for alpha in (0.35, 0.5, 0.75, 1.3):
    assert mobilenet_v2.scale_channels(24, alpha, 'slim') == round(24 * alpha)
  assert [
    mobilenet_v2.scale_channels(c, 0.35, 'keras')
    for c in (32, 16, 24, 32, 64, 96, 160, 320)
  ] == [16, 8, 8, 16, 24, 32, 56, 112]


def test_cut_and_taps():
  st = mobilenet_v2.MobileNetV2(alpha=0.5, cut='block_13_expand')
  assert encoder_cases.shapes(st, 32, 32) == [
    (16, 16, 8),
    (8, 8, 16),
    (4, 4, 16),
    (2, 2, 288),
  ]
  early = mobilenet_v2.MobileNetV2(cut='block_6_expand')
  assert encoder_cases.shapes(early, 33, 33)[-1] == (5, 5, 192)
  wide = mobilenet_v2.MobileNetV2(output_stride=32, tap='expanded')
  assert [c for _, _, c in encoder_cases.shapes(wide, 33, 33)] == [
    32,
    144,
    192,
    576,
    320,
  ]


def test_expanded_tap_is_the_input_of_the_projection():
  encoder, x = Tiny(tap='expanded'), encoder_cases.images(33, 33)
  weights = encoder_cases.variables(encoder)
  (wide,) = encoder_cases.features(encoder, weights, x, slice(3, 4))
  (narrow,) = encoder_cases.features(Tiny(), weights, x, slice(3, 4))
  block = weights['params']['block_5']['project']
  means = weights['batch_stats']['block_5']['project']['norm']['bn']
  bn = block['norm']['bn']
  projected = wide @ block['conv']['kernel'][0, 0]
  projected = (projected - means['mean']) / np.sqrt(means['var'] + 1e-3)
  np.testing.assert_allclose(
    projected * bn['scale'] + bn['bias'], narrow, rtol=0, atol=1e-4
  )
  assert wide.min() >= 0.0 and wide.max() <= 6.0


def test_module_names():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny())['params'], sep='/'
  )
  assert flat['stem/conv/kernel'].shape == (3, 3, 3, 8)
  assert flat['block_1/expand/conv/kernel'].shape == (1, 1, 8, 48)
  assert flat['block_1/depthwise/conv/kernel'].shape == (3, 3, 1, 48)
  assert flat['block_1/project/norm/bn/scale'].shape == (8,)
  assert 'block_0/expand/conv/kernel' not in flat


# At 33 x 65 each strided layer reads an odd map, with every padding.
@pytest.mark.parametrize(
  ('padding', 'size', 'output_strides'),
  [
    ('same', (33, 65), (8, 16)),
    pytest.param('keras', (65, 33), (8, 16), marks=pytest.mark.full),
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


def test_same_padding_on_even_sizes():
  encoder = lambda output_stride: Tiny(output_stride, padding='same')
  weights = encoder_cases.variables(encoder(32))
  # 40 / 8 = 5 is 1 modulo 4: the removed strides read odd maps.
  x = encoder_cases.images(40, 40)
  coarse = encoder_cases.features(encoder(32), weights, x)
  encoder_cases.assert_subsampled(
    encoder_cases.features(encoder(8), weights, x), coarse, 8
  )
  # 64 is a multiple of 32: the removed strides move the grid.
  x = encoder_cases.images(64, 64)
  coarse = encoder_cases.features(encoder(32), weights, x)
  fine = encoder_cases.features(encoder(8), weights, x)
  encoder_cases.assert_subsampled(fine, coarse, 8, offset=1)
  error = np.abs(fine[-1][:, ::4, ::4] - coarse[-1]).max()
  assert error > 0.5 * coarse[-1].std()


def test_rates():
  full = mobilenet_v2.MobileNetV2
  # Blocks 0 .. 6 are the same at output stride 8 and more.
  first = [(1, 1), (2, 1), (1, 1), (2, 1), (1, 1), (1, 1)]
  plan = encoder_cases.depthwise_plan(full(output_stride=16))
  assert plan == [
    *first,
    *((2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)),
    *((1, 1), (1, 2), (1, 2), (1, 2)),
  ]
  plan = encoder_cases.depthwise_plan(
    full(output_stride=8, multi_grid=(1, 2, 4))
  )
  assert plan == [
    *first,
    *((1, 1), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)),
    *((1, 2), (1, 4), (1, 8), (1, 16)),
  ]


@pytest.mark.parametrize(
  ('rule', 'output_stride', 'rates'),
  [
    ('torchvision', 16, [1] * 13 + [2] * 4),
    ('torchvision', 8, [1] * 6 + [2] * 7 + [4] * 4),
    ('stage', 16, [1] * 16 + [2]),
    ('stage', 8, [1] * 10 + [2] * 6 + [4]),
  ],
)
def test_rates_by_rule(rule, output_stride, rates):
  full = mobilenet_v2.MobileNetV2
  plan = encoder_cases.depthwise_plan(full(output_stride, dilation_rule=rule))
  usual = encoder_cases.depthwise_plan(full(output_stride))
  assert plan == [(s, r) for (s, _), r in zip(usual, rates, strict=True)]
  plan = encoder_cases.depthwise_plan(
    full(output_stride, dilation_rule=rule, multi_grid=(1, 2, 4))
  )
  factors = [1] * 15 + [2, 4]
  assert [r for _, r in plan] == [
    r * f for r, f in zip(rates, factors, strict=True)
  ]


@pytest.mark.parametrize('pointwise', ['conv', 'matmul'])
@pytest.mark.parametrize('rate', [1, 2])
def test_padded_inputs_of_blocks(pointwise, rate):
  """The border is that of the same block on a larger map."""

  def block(**fields):
    return mobilenet_v2.InvertedResidual(
      *(5, 12, True, output_strides.StrideRate(1, rate), False),
      layers.BatchNormConfig(0.9, 1e-5),
      *('relu6', 'symmetric', layers.Options(pointwise=pointwise)),
      **fields,
    )

  x = encoder_cases.images(9, 8, seed=1)
  variables = encoder_cases.variables(block())
  actual, _ = block(pad_input=True).apply(variables, x, False)
  border = [(0, 0), (rate, rate), (rate, rate), (0, 0)]
  larger, _ = block().apply(variables, np.pad(x, border), False)
  inner = larger[:, rate:-rate, rate:-rate]
  np.testing.assert_allclose(actual, inner, atol=1e-5)
  usual, _ = block().apply(variables, x, False)
  assert np.abs(actual - usual).max() > 0.1


def test_a_removed_stride_without_rates():
  plan = encoder_cases.depthwise_plan(Tiny(output_stride=8, atrous=False))
  strides = [2 if i in (1, 3) else 1 for i in range(9)]
  assert plan == [(stride, 1) for stride in strides]
  assert encoder_cases.shapes(
    Tiny(8, atrous=False), 33, 33
  ) == encoder_cases.shapes(Tiny(8), 33, 33)


def test_expansion_in_the_first_block():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny(expand_first=True))['params'], sep='/'
  )
  assert flat['block_0/expand/conv/kernel'].shape == (1, 1, 8, 8)
  # 32 * 32 + 2 * 32 more, in PaddleSeg's.
  paddle = mobilenet_v2.MobileNetV2(expand_first=True)
  assert encoder_cases.count(paddle)[0] == 1_811_712 + 1_088
  encoder_cases.assert_trains(Tiny(expand_first=True))


def test_activations_differ_above_six():
  x = 50 * encoder_cases.images(33, 33)
  weights = encoder_cases.variables(Tiny())
  bounded, free = (
    encoder_cases.features(
      Tiny(tap='expanded', activation=activation), weights, x, slice(1)
    )[0]
    for activation in ('relu6', 'relu')
  )
  assert bounded.max() == 6.0
  assert free.max() > 6.0


def test_trains():
  encoder_cases.assert_trains(Tiny())


def test_bfloat16():
  encoder_cases.assert_bfloat16(Tiny(options=layers.Options(dtype='bfloat16')))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'rounding': 'floor'}, r"rounding='floor' is not one of \('keras'"),
    ({'activation': 'gelu'}, "activation='gelu'"),
    ({'tap': 'low'}, "tap='low'"),
    ({'cut': 'block_7'}, "cut='block_7'"),
    ({'dilation_rule': 'smp'}, "dilation_rule='smp'"),
    ({'padding': 'valid'}, "padding='valid'"),
    ({'alpha': 0.0}, 'alpha=0.0 must be positive'),
    ({'repeats': (1, 2)}, 'repeats='),
    ({'output_stride': 12}, 'output_stride=12'),
    ({'cut': 'block_13_expand', 'top_conv': True}, 'top_conv'),
    ({'cut': 'block_13_expand', 'multi_grid': (1, 2, 4)}, 'multi_grid'),
    ({'atrous': False, 'multi_grid': (1, 2, 4)}, 'atrous=False'),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)
