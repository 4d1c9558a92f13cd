import flax
import pytest

from deeplab.models import layers
from deeplab.models.encoders import regnet
from tests.models.encoders import encoder_cases

Tiny = regnet.RegNetXTiny


@pytest.mark.parametrize(
  ('encoder', 'params', 'statistics'),
  [
    # torchvision's totals less the classifier: 5,495,976 - 401,000 (with a
    # last width of 400), 7,259,656 - 673,000, 9,190,136 - 913,000 and
    # 15,296,552 - 1,009,000.
    (regnet.RegNetX400MF(widths=(32, 64, 160, 400)), 5_094_976, 37_856),
    (regnet.RegNetX800MF(), 6_586_656, 37_312),
    (regnet.RegNetX1600MF(), 8_277_136, 43_504),
    (regnet.RegNetX3200MF(), 14_287_552, 62_560),
    # pycls' 5,157,512 less 385,000.
    (regnet.RegNetX400MF(), 4_772_512, 36_672),
  ],
)
def test_parameter_counts(encoder, params, statistics):
  assert encoder_cases.count(encoder) == (params, statistics)


@pytest.mark.parametrize(
  ('encoder', 'channels'),
  [
    (regnet.RegNetX400MF, (32, 32, 64, 160, 384)),
    (regnet.RegNetX800MF, (32, 64, 128, 288, 672)),
    (regnet.RegNetX1600MF, (32, 72, 168, 408, 912)),
    (regnet.RegNetX3200MF, (32, 96, 192, 432, 1008)),
  ],
)
def test_maps(encoder, channels):
  sizes = ((33, 32), (17, 16), (9, 8), (5, 4), (3, 2))
  assert encoder_cases.shapes(encoder(32), 65, 64) == [
    (*size, c) for size, c in zip(sizes, channels, strict=True)
  ]


def test_module_names():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny())['params'], sep='/'
  )
  assert flat['stem/conv/kernel'].shape == (3, 3, 3, 8)
  # A shortcut even where the stem has the width of the first stage.
  assert flat['stage1_block1/shortcut/conv/kernel'].shape == (1, 1, 8, 8)
  assert flat['stage2_block1/conv_2/conv/kernel'].shape == (3, 3, 4, 12)
  assert flat['stage4_block3/conv_3/norm/bn/scale'].shape == (24,)
  assert 'stage4_block2/shortcut/conv/kernel' not in flat


# (stride, rate) of the 3x3 convolutions of RegNetX-800MF up to its third stage.
FIRST = [(2, 1), *[(2, 1)], *[(2, 1), (1, 1), (1, 1)]]


@pytest.mark.parametrize(
  ('output_stride', 'multi_grid', 'third', 'fourth'),
  [
    (
      32, (1, 1, 1),
      [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)],
      [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1)],
    ),
    (
      16, (1, 1, 1),
      [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)],
      [(1, 1), (1, 2), (1, 2), (1, 2), (1, 2)],
    ),
    (
      8, (1, 2, 4),
      [(1, 1), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)],
      [(1, 2), (1, 4), (1, 4), (1, 8), (1, 16)],
    ),
  ],
)  # fmt: skip
def test_rates(output_stride, multi_grid, third, fourth):
  encoder = regnet.RegNetX800MF(output_stride, multi_grid=multi_grid)
  assert encoder_cases.kernel_plan(encoder, 3) == FIRST + third + fourth
  # All of them but the stem's are grouped.
  assert encoder_cases.depthwise_plan(encoder) == FIRST[1:] + third + fourth


@pytest.mark.parametrize(
  ('size', 'output_strides'),
  [
    ((64, 50), (8,)),
    ((33, 65), (16,)),
    pytest.param((43, 44), (4, 8, 16), marks=pytest.mark.full),
  ],
)
def test_atrous_consistency(size, output_strides):
  weights, x = encoder_cases.variables(Tiny()), encoder_cases.images(*size)
  coarse = encoder_cases.features(Tiny(32), weights, x)
  for output_stride in output_strides:
    fine = encoder_cases.features(Tiny(output_stride), weights, x)
    encoder_cases.assert_subsampled(fine, coarse, output_stride)


def test_trains():
  encoder_cases.assert_trains(Tiny())


def test_bfloat16():
  encoder_cases.assert_bfloat16(Tiny(options=layers.Options(dtype='bfloat16')))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'output_stride': 12}, 'output_stride=12'),
    ({'depths': (1, 1, 1)}, 'depths='),
    ({'depths': (1, 0, 1, 3)}, 'depths='),
    ({'widths': (8, 8)}, 'widths='),
    ({'group_width': 5}, 'group_width=5 must divide'),
    ({'multi_grid': (1, 1, 2, 4)}, '3 units of the last stage'),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)
