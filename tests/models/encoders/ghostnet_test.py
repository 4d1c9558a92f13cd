import flax
import pytest

from deeplab.models import layers
from deeplab.models.encoders import ghostnet
from tests.models.encoders import encoder_cases

GhostNet = ghostnet.GhostNet
Tiny = ghostnet.GhostNetTiny


def by_hand(rows):
  """Parameters, layer by layer; a row is (k, exp, out, squeezed, stride)."""
  ghost = lambda cin, out: (cin + 2 + 9 + 2) * out // 2
  total, channels = 27 * 16 + 2 * 16, 16
  for kernel, expanded, out, squeezed, stride in rows:
    total += ghost(channels, expanded) + ghost(expanded, out)
    if stride > 1:
      total += (kernel * kernel + 2) * expanded
    if squeezed:
      total += 2 * expanded * squeezed + squeezed + expanded
    if stride > 1 or channels != out:
      total += (kernel * kernel + 2) * channels + channels * out + 2 * out
    channels = out
  return total


def test_parameter_counts():
  rows = [
    *((3, 16, 16, 0, 1), (3, 48, 24, 0, 2), (3, 72, 24, 0, 1)),
    *((5, 72, 40, 18, 2), (5, 120, 40, 30, 1)),
    *((3, 240, 80, 0, 2), (3, 200, 80, 0, 1)),
    *((3, 184, 80, 0, 1), (3, 184, 80, 0, 1)),
    *((3, 480, 112, 120, 1), (3, 672, 112, 168, 1)),
    *((5, 672, 160, 168, 2), (5, 960, 160, 0, 1), (5, 960, 160, 240, 1)),
    *((5, 960, 160, 0, 1), (5, 960, 160, 240, 1)),
  ]
  # MobileSeg's 2,670,568 has 155,432 in its head.
  assert by_hand(rows) == encoder_cases.count(GhostNet())[0] == 2_515_136
  # The authors round 18 and 30 to 20 and 32; then a 1x1 layer of 960.
  original = GhostNet(squeeze='divisible', gate='hard_sigmoid', top_conv=True)
  more = 2 * (2 * 72 + 1) + 2 * (2 * 120 + 1) + 160 * 960 + 2 * 960
  assert encoder_cases.count(original)[0] == 2_515_136 + more


def test_maps():
  assert encoder_cases.shapes(GhostNet(32), 65, 64) == [
    (33, 32, 16),
    (17, 16, 24),
    (9, 8, 40),
    (5, 4, 112),
    (3, 2, 160),
  ]
  # 0.5 of each, to multiples of 4.
  half = GhostNet(8, alpha=0.5, top_conv=True)
  assert encoder_cases.shapes(half, 33, 33) == [
    (17, 17, 8),
    (9, 9, 12),
    (5, 5, 20),
    (5, 5, 56),
    (5, 5, 480),
  ]


def test_module_names():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny())['params'], sep='/'
  )
  assert flat['stem/conv/kernel'].shape == (3, 3, 3, 8)
  assert flat['block_1/ghost_1/primary/conv/kernel'].shape == (1, 1, 8, 6)
  assert flat['block_1/ghost_1/cheap/conv/kernel'].shape == (3, 3, 1, 6)
  assert flat['block_1/depthwise/conv/kernel'].shape == (3, 3, 1, 12)
  assert flat['block_1/shortcut_depthwise/conv/kernel'].shape == (3, 3, 1, 8)
  assert flat['block_1/shortcut_project/conv/kernel'].shape == (1, 1, 8, 12)
  assert flat['block_2/squeeze_excite/reduce/kernel'].shape == (1, 1, 20, 5)
  assert flat['block_3/depthwise/conv/kernel'].shape == (5, 5, 1, 20)
  # Identity, and a shortcut that only changes the number of channels.
  assert 'block_2/shortcut_project/conv/kernel' not in flat
  assert flat['block_5/shortcut_depthwise/conv/kernel'].shape == (3, 3, 1, 20)
  assert 'block_5/depthwise/conv/kernel' not in flat


@pytest.mark.parametrize(
  ('padding', 'size', 'output_strides'),
  [
    ('same', (33, 65), (8, 16)),
    ('symmetric', (64, 50), (4, 8, 16)),
    pytest.param('symmetric', (43, 44), (4, 8, 16), marks=pytest.mark.full),
  ],
)
def test_atrous_consistency(padding, size, output_strides):
  """With constant gates, since the means of other grids differ."""
  encoder = lambda output_stride: Tiny(output_stride, padding=padding)
  weights = encoder_cases.constant_gates(encoder_cases.variables(encoder(32)))
  x = encoder_cases.images(*size)
  coarse = encoder_cases.features(encoder(32), weights, x)
  for output_stride in output_strides:
    fine = encoder_cases.features(encoder(output_stride), weights, x)
    encoder_cases.assert_subsampled(fine, coarse, output_stride)


def strided(stride, before, behind):
  """Rates `before` the stride and `behind` it: ghost_1, between, ghost_2."""
  return [(1, before), (stride, before), (1, behind), (stride, before)]


def widened(rate):
  """Ghost modules, and the shortcut of a block with other channels."""
  return 3 * [(1, rate)]


@pytest.mark.parametrize(
  ('output_stride', 'plan'),
  [
    (
      32,
      [
        *(2 * [(1, 1)]),
        *(strided(2, 1, 1) + 2 * [(1, 1)]),
        *(strided(2, 1, 1) + 2 * [(1, 1)]),
        *(strided(2, 1, 1) + 6 * [(1, 1)] + widened(1) + 2 * [(1, 1)]),
        *(strided(2, 1, 1) + 8 * [(1, 1)]),
      ],
    ),
    (
      16,
      [
        *(2 * [(1, 1)]),
        *(strided(2, 1, 1) + 2 * [(1, 1)]),
        *(strided(2, 1, 1) + 2 * [(1, 1)]),
        *(strided(2, 1, 1) + 6 * [(1, 1)] + widened(1) + 2 * [(1, 1)]),
        *(strided(1, 1, 2) + 8 * [(1, 2)]),
      ],
    ),
    (
      8,
      [
        *(2 * [(1, 1)]),
        *(strided(2, 1, 1) + 2 * [(1, 1)]),
        *(strided(2, 1, 1) + 2 * [(1, 1)]),
        *(strided(1, 1, 2) + 6 * [(1, 2)] + widened(2) + 2 * [(1, 2)]),
        *(strided(1, 2, 4) + 8 * [(1, 4)]),
      ],
    ),
  ],
)
def test_rates(output_stride, plan):
  assert encoder_cases.depthwise_plan(GhostNet(output_stride)) == plan


def test_multi_grid_multiplies_all_layers_of_a_block():
  plan = encoder_cases.depthwise_plan(GhostNet(16, multi_grid=(1, 2, 4)))
  assert plan[-8:] == [*(4 * [(1, 2)]), *(2 * [(1, 4)]), *(2 * [(1, 8)])]


def test_trains():
  encoder_cases.assert_trains(Tiny())


def test_bfloat16():
  encoder_cases.assert_bfloat16(Tiny(options=layers.Options(dtype='bfloat16')))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'squeeze': 'half'}, r"squeeze='half' is not one of \('exact'"),
    ({'gate': 'tanh'}, "gate='tanh'"),
    ({'padding': 'valid'}, "padding='valid'"),
    ({'alpha': -1.0}, 'alpha=-1.0 must be positive'),
    ({'output_stride': 64}, 'output_stride=64'),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)
