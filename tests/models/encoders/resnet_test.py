import flax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models.encoders import resnet
from tests.models.encoders import encoder_cases

Tiny = resnet.ResNetTiny


@pytest.mark.parametrize(
  ('encoder', 'params', 'statistics'),
  [
    # torchvision's totals less the classifier: 11,689,512 - 513,000,
    # 21,797,672 - 513,000, 25,557,032 - 2,049,000, 44,549,160 - 2,049,000.
    (resnet.ResNet18(), 11_176_512, 9_600),
    (resnet.ResNet34(), 21_284_672, 17_024),
    (resnet.ResNet50(), 23_508_032, 53_120),
    (resnet.ResNet101(), 42_500_160, 105_344),
    # Keras' 23,587,712 without the classifier, 53,120 of them statistics.
    (resnet.ResNet50(conv_bias=True), 23_534_592, 53_120),
    # Three 3x3 layers of 32, 32, 64 channels for one 7x7 layer of 64.
    (
      resnet.ResNet50(stem='v1c'),
      23_508_032 - 9_408 - 128 + 864 + 9_216 + 18_432 + 256,
      53_120 + 128,
    ),
    # 64, 64, 128; and 128 channels enter conv_1 and shortcut of conv2_block1.
    (
      resnet.ResNet50(stem='beta', stride_unit='last'),
      23_508_032 - 9_408 - 128 + 1_728 + 36_864 + 73_728 + 512 + 64 * 320,
      53_120 + 384,
    ),
  ],
)
def test_parameter_counts(encoder, params, statistics):
  assert encoder_cases.count(encoder) == (params, statistics)


def test_maps():
  basic = [(33, 32, 64), (17, 16, 64), (9, 8, 128), (9, 8, 256), (9, 8, 512)]
  assert encoder_cases.shapes(resnet.ResNet18(8), 65, 64) == basic
  for encoder in (
    resnet.ResNet50(32),
    resnet.ResNet50(32, stem='v1c'),
    resnet.ResNet50(32, stem='beta', stride_unit='last'),
  ):
    assert encoder_cases.shapes(encoder, 65, 64) == [
      (33, 32, 128 if encoder.stem == 'beta' else 64),
      (17, 16, 256),
      (9, 8, 512),
      (5, 4, 1024),
      (3, 2, 2048),
    ]


def test_cuts():
  maps = encoder_cases.shapes(resnet.ResNet50(32), 64, 65)
  cut = resnet.ResNet50(cut='conv4_block6_out')
  assert encoder_cases.shapes(cut, 64, 65) == maps[:4]
  cut = resnet.ResNet50(8, cut='conv3_block4_out')
  assert encoder_cases.shapes(cut, 64, 65) == maps[:3]
  cut = resnet.ResNet101(cut='conv4_block23_out')
  assert encoder_cases.shapes(cut, 64, 65) == maps[:4]


def test_cut_is_the_same_network():
  cut, x = Tiny(cut='conv4_block2_out'), encoder_cases.images(33, 33)
  variables = encoder_cases.variables(Tiny())
  own = encoder_cases.subset(encoder_cases.variables(cut), variables)
  assert 'conv4_block2' in own['params'] and 'conv5_block1' not in own['params']
  maps = encoder_cases.features(cut, own, x)
  encoder_cases.assert_equal(
    maps, encoder_cases.features(Tiny(), variables, x)[:4]
  )


def test_module_names():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny())['params'], sep='/'
  )
  assert flat['stem_1/conv/kernel'].shape == (7, 7, 3, 4)
  assert flat['conv2_block1/conv_1/conv/kernel'].shape == (1, 1, 4, 4)
  assert flat['conv2_block1/shortcut/conv/kernel'].shape == (1, 1, 4, 16)
  assert flat['conv3_block2/conv_2/norm/bn/scale'].shape == (6,)
  assert flat['conv5_block3/conv_3/conv/kernel'].shape == (1, 1, 10, 40)
  assert 'conv2_block2/shortcut/conv/kernel' not in flat
  assert 'conv2_block1/conv_1/conv/bias' not in flat
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny(block='basic', stem='v1c', conv_bias=True))[
      'params'
    ],
    sep='/',
  )
  assert flat['stem_1/conv/kernel'].shape == (3, 3, 3, 2)
  assert flat['stem_3/conv/kernel'].shape == (3, 3, 2, 4)
  assert flat['conv3_block1/conv_2/conv/bias'].shape == (6,)
  assert 'conv2_block1/shortcut/conv/kernel' not in flat
  assert 'conv3_block1/conv_3/conv/kernel' not in flat


# (stride, rate) of the 3x3 convolutions of ResNet-50's stages; those of the
# third stage and, where no stride is moved, of the second are always the same.
SECOND = [(1, 1), (1, 1), (1, 1)]
THIRD = [(2, 1), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize(
  ('output_stride', 'multi_grid', 'mode', 'fourth', 'fifth'),
  [
    (
      32, (1, 1, 1), 'multiply',
      [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)],
      [(2, 1), (1, 1), (1, 1)],
    ),
    (
      32, (1, 2, 4), 'multiply',
      [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)],
      [(2, 1), (1, 2), (1, 4)],
    ),
    (
      16, (1, 1, 1), 'multiply',
      [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)],
      [(1, 1), (1, 2), (1, 2)],
    ),
    (
      16, (1, 2, 4), 'multiply',
      [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)],
      [(1, 1), (1, 4), (1, 8)],
    ),
    (
      16, (1, 2, 4), 'replace',
      [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)],
      [(1, 1), (1, 2), (1, 4)],
    ),
    (
      8, (1, 1, 1), 'multiply',
      [(1, 1), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)],
      [(1, 2), (1, 4), (1, 4)],
    ),
    (
      8, (1, 2, 4), 'multiply',
      [(1, 1), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)],
      [(1, 2), (1, 8), (1, 16)],
    ),
    (
      8, (1, 2, 4), 'replace',
      [(1, 1), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)],
      [(1, 1), (1, 2), (1, 4)],
    ),
  ],
)  # fmt: skip
def test_rates(output_stride, multi_grid, mode, fourth, fifth):
  encoder = resnet.ResNet50(
    output_stride, multi_grid=multi_grid, multi_grid_mode=mode
  )
  assert encoder_cases.kernel_plan(encoder, 7) == [(2, 1)]
  plan = encoder_cases.kernel_plan(encoder, 3)
  assert plan == SECOND + THIRD + fourth + fifth


@pytest.mark.parametrize(
  ('output_stride', 'multi_grid', 'fourth', 'fifth'),
  [
    (16, (1, 1, 1), [(2, 1), *(5 * [(1, 1)])], 3 * [(1, 2)]),
    (8, (1, 1, 1), 6 * [(1, 2)], 3 * [(1, 4)]),
    (8, (1, 2, 4), 6 * [(1, 2)], [(1, 4), (1, 8), (1, 16)]),
  ],
)
def test_rates_in_the_unit_that_lost_its_stride(
  output_stride, multi_grid, fourth, fifth
):
  encoder = resnet.ResNet50(
    output_stride, multi_grid=multi_grid, dilation_rule='torchvision'
  )
  plan = encoder_cases.kernel_plan(encoder, 3)
  assert plan == SECOND + THIRD + fourth + fifth


def test_rates_of_the_deepest():
  encoder = resnet.ResNet101(
    stem='v1c', multi_grid=(1, 2, 4), multi_grid_mode='replace'
  )
  assert encoder_cases.kernel_plan(encoder, 3) == [
    *((2, 1), (1, 1), (1, 1)),
    *(SECOND + THIRD),
    *((2, 1), *(22 * [(1, 1)])),
    *((1, 1), (1, 2), (1, 4)),
  ]


def test_rates_with_the_stride_in_the_last_unit():
  """As in TF's resnet_v1_50_beta: the unit behind a lost stride is atrous."""
  encoder = lambda output_stride: resnet.ResNet50(
    output_stride, multi_grid=(1, 2, 4), stem='beta', stride_unit='last'
  )
  stem = [(2, 1), (1, 1), (1, 1)]
  second = [(1, 1), (1, 1), (2, 1)]
  assert encoder_cases.kernel_plan(encoder(32), 3) == [
    *(stem + second),
    *((1, 1), (1, 1), (1, 1), (2, 1)),
    *((1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (2, 1)),
    *((1, 1), (1, 2), (1, 4)),
  ]
  assert encoder_cases.kernel_plan(encoder(16), 3) == [
    *(stem + second),
    *((1, 1), (1, 1), (1, 1), (2, 1)),
    *((1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)),
    *((1, 2), (1, 4), (1, 8)),
  ]
  assert encoder_cases.kernel_plan(encoder(8), 3) == [
    *(stem + second),
    *((1, 1), (1, 1), (1, 1), (1, 1)),
    *((1, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)),
    *((1, 4), (1, 8), (1, 16)),
  ]


def test_rates_with_the_stride_in_the_first_convolution():
  """The 3x3 convolution lies behind the lost stride, and is atrous."""
  encoder = resnet.ResNet50(16, stride_conv='1x1')
  assert encoder_cases.kernel_plan(encoder, 3) == 13 * [(1, 1)] + 3 * [(1, 2)]
  plan = encoder_cases.kernel_plan(encoder, 1)
  # conv_1, conv_3 and shortcut of conv3_block1 and of conv4_block1.
  strided = [(2, 1), (1, 1), (2, 1)]
  assert plan == [
    *(7 * [(1, 1)]),
    *(strided + 6 * [(1, 1)]),
    *(strided + 10 * [(1, 1)]),
    *(7 * [(1, 1)]),
  ]


@pytest.mark.parametrize(
  ('output_stride', 'dilation', 'fourth', 'fifth'),
  [
    (
      16, 'both',
      [(2, 1), (1, 1), (1, 1), (1, 1)], [(1, 1), (1, 2), (1, 2), (1, 2)],
    ),
    (
      8, 'both',
      [(1, 1), (1, 2), (1, 2), (1, 2)], [(1, 2), (1, 4), (1, 4), (1, 4)],
    ),
    (
      8, 'first',
      [(1, 1), (1, 1), (1, 2), (1, 1)], [(1, 2), (1, 1), (1, 4), (1, 1)],
    ),
  ],
)  # fmt: skip
def test_rates_of_basic_blocks(output_stride, dilation, fourth, fifth):
  encoder = resnet.ResNet18(output_stride, basic_dilation=dilation)
  plan = encoder_cases.kernel_plan(encoder, 3)
  second, third = 4 * [(1, 1)], [(2, 1), (1, 1), (1, 1), (1, 1)]
  assert plan == second + third + fourth + fifth


@pytest.mark.parametrize(
  ('mode', 'dilation', 'fifth'),
  [
    ('multiply', 'both', [(1, 1), (1, 2), (1, 8), (1, 8)]),
    ('replace', 'both', [(1, 1), (1, 1), (1, 4), (1, 4)]),
    ('replace', 'first', [(1, 1), (1, 1), (1, 4), (1, 1)]),
  ],
)
def test_multi_grid_of_basic_blocks(mode, dilation, fifth):
  encoder = resnet.ResNet18(
    multi_grid=(1, 4), multi_grid_mode=mode, basic_dilation=dilation
  )
  assert encoder_cases.kernel_plan(encoder, 3)[12:] == fifth


@pytest.mark.parametrize(
  ('fields', 'size', 'output_strides'),
  [
    ({}, (64, 50), (8,)),
    ({}, (43, 44), (4, 16)),
    ({'block': 'basic'}, (33, 50), (8, 16)),
    ({'stem': 'beta', 'stride_unit': 'last'}, (33, 50), (8, 16)),
    ({'stem': 'v1c', 'stride_conv': '1x1'}, (33, 50), (8, 16)),
    ({'padding': 'same'}, (33, 65), (8,)),
    pytest.param(
      {'block': 'basic', 'stride_unit': 'last'},
      (43, 44),
      (4, 8, 16),
      marks=pytest.mark.full,
    ),
    pytest.param(
      {'stride_conv': '1x1', 'stride_unit': 'last'},
      (43, 44),
      (4, 8, 16),
      marks=pytest.mark.full,
    ),
  ],
)
def test_atrous_consistency(fields, size, output_strides):
  encoder = lambda output_stride: Tiny(output_stride, **fields)
  weights, x = encoder_cases.variables(encoder(32)), encoder_cases.images(*size)
  coarse = encoder_cases.features(encoder(32), weights, x)
  for output_stride in output_strides:
    fine = encoder_cases.features(encoder(output_stride), weights, x)
    encoder_cases.assert_subsampled(fine, coarse, output_stride)


def test_paddings_agree_where_each_map_is_odd():
  weights = encoder_cases.variables(Tiny())
  for size, agree in (((33, 65), True), ((64, 64), False)):
    x = encoder_cases.images(*size)
    maps = [
      encoder_cases.features(Tiny(padding=padding), weights, x)[-1]
      for padding in ('symmetric', 'same')
    ]
    error = np.abs(maps[0] - maps[1]).max() / maps[0].std()
    assert error < 1e-5 if agree else error > 0.5


def test_trains():
  encoder_cases.assert_trains(Tiny())


@pytest.mark.full
@pytest.mark.parametrize(
  'fields',
  [{'block': 'basic', 'stem': 'v1c'}, {'stem': 'beta', 'stride_unit': 'last'}],
)
def test_variants_train(fields):
  encoder_cases.assert_trains(Tiny(**fields))


def test_bfloat16():
  encoder_cases.assert_bfloat16(Tiny(options=layers.Options(dtype='bfloat16')))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'output_stride': 2}, 'output_stride=2'),
    ({'block': 'wide'}, "block='wide'"),
    ({'stem': 'v1d'}, "stem='v1d'"),
    ({'stride_unit': 'second'}, "stride_unit='second'"),
    ({'stride_conv': '7x7'}, "stride_conv='7x7'"),
    ({'basic_dilation': 'none'}, "basic_dilation='none'"),
    ({'multi_grid_mode': 'add'}, "multi_grid_mode='add'"),
    ({'padding': 'keras'}, "padding='keras'"),
    ({'depths': (1, 1)}, 'depths='),
    ({'widths': (8, 8)}, 'widths='),
    ({'depths': (2, 1, 2, 3), 'stride_unit': 'last'}, 'depths='),
    ({'block': 'basic', 'stride_conv': '1x1'}, "needs block='bottleneck'"),
    ({'basic_dilation': 'first'}, "needs block='basic'"),
    ({'multi_grid': (1, 0, 1)}, r'multi_grid=\(1, 0, 1\)'),
    ({'multi_grid': (1, 1, 2, 4)}, '3 units of the last stage'),
    ({'multi_grid': (1, 2), 'multi_grid_mode': 'replace'}, 'each of the 3'),
    ({'cut': 'conv4_block1_out'}, r"cut=.*'conv4_block2_out'"),
    ({'cut': 'conv4_block2_out', 'multi_grid': (1, 2, 4)}, 'multi_grid'),
    ({'cut': 'conv3_block2_out', 'stride_unit': 'last'}, 'stride_unit'),
    ({'cut': 'conv3_block2_out', 'multi_grid_mode': 'replace'}, 'replace'),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)
