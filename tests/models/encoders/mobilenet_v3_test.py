import flax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models.encoders import mobilenet_v3
from tests.models.encoders import encoder_cases

Large = mobilenet_v3.MobileNetV3Large
Small = mobilenet_v3.MobileNetV3Small
LargeSeg = mobilenet_v3.MobileNetV3LargeSeg
SmallSeg = mobilenet_v3.MobileNetV3SmallSeg
Tiny = mobilenet_v3.MobileNetV3Tiny

PADDLE = {
  'expand_always': True,
  'squeeze': 'exact',
  'gate': 'hard_sigmoid_paddle',
  'bn_decay': 0.9,
  'bn_epsilon': 1e-5,
  'top_conv': False,
}


@pytest.mark.parametrize(
  ('encoder', 'fields', 'params'),
  [
    # torchvision's 5,483,032 and 2,542,856 without their classifiers of
    # 960 * 1280 + 1280 * 1000 and 576 * 1024 + 1024 * 1000, and biases.
    (Large, {}, 2_971_952),
    (Small, {}, 927_008),
    # MobileSeg's 2,970,318 has 155,432 in its head.
    (Large, PADDLE, 2_814_886),
  ],
)
def test_parameter_counts_equal_the_published(encoder, fields, params):
  assert encoder_cases.count(encoder(**fields))[0] == params


def by_hand(rows, top):
  """Parameters, layer by layer; a row is (k, exp, out, squeezed)."""
  total, channels = 27 * 16 + 2 * 16, 16
  for kernel, expanded, out, squeezed in rows:
    if expanded != channels:
      total += channels * expanded + 2 * expanded
    total += kernel * kernel * expanded + 2 * expanded
    if squeezed:
      total += 2 * expanded * squeezed + squeezed + expanded
    total += expanded * out + 2 * out
    channels = out
  return total + channels * top + 2 * top


def test_parameter_counts_of_tf_by_hand():
  large = [
    *((3, 16, 16, 0), (3, 64, 24, 0), (3, 72, 24, 0)),
    *((5, 72, 40, 24), (5, 120, 40, 32), (5, 120, 40, 32)),
    *((3, 240, 80, 0), (3, 200, 80, 0), (3, 184, 80, 0), (3, 184, 80, 0)),
    *((3, 480, 112, 120), (3, 672, 112, 168)),
    *((5, 336, 80, 88), (5, 480, 80, 120), (5, 480, 80, 120)),
  ]
  small = [
    *((3, 16, 16, 8), (3, 72, 24, 0), (3, 88, 24, 0)),
    *((5, 96, 40, 24), (5, 240, 40, 64), (5, 240, 40, 64)),
    *((5, 120, 48, 32), (5, 144, 48, 40)),
    *((5, 144, 48, 40), (5, 288, 48, 72), (5, 288, 48, 72)),
  ]
  assert by_hand(large, 480) == encoder_cases.count(LargeSeg())[0] == 1_379_184
  assert by_hand(small, 288) == encoder_cases.count(SmallSeg())[0] == 390_576
  # LR-ASPP on 19 classes: a branch of 128 channels, gates with biases, and
  # two classifiers. The paper has 1.51 M and 0.47 M.
  head = lambda top, low: 2 * (top * 128 + 128) + 128 + 19 * (128 + low + 2)
  assert 1_379_184 + head(480, 120) == 1_507_198
  assert 390_576 + head(288, 88) == 468_830


def test_maps():
  assert encoder_cases.shapes(Large(32), 65, 64) == [
    (33, 32, 16),
    (17, 16, 24),
    (9, 8, 40),
    (5, 4, 112),
    (3, 2, 960),
  ]
  assert encoder_cases.shapes(Small(8), 65, 64) == [
    (33, 32, 16),
    (17, 16, 16),
    (9, 8, 24),
    (9, 8, 48),
    (9, 8, 576),
  ]
  paddle = encoder_cases.shapes(Large(32, **PADDLE), 64, 64)
  assert paddle[-1] == (2, 2, 160)


@pytest.mark.parametrize(
  ('encoder', 'tap', 'channels'),
  [
    # torchvision's C2 is 40 channels at stride 8, the last stage is whole.
    (Large, 'first', (16, 24, 40, 80, 960)),
    (Small, 'first', (16, 16, 24, 40, 576)),
    (Large, 'expanded', (16, 72, 120, 672, 960)),
    # TF's layer_2, layer_4 and layer_9 of the small network.
    (SmallSeg, 'expanded', (16, 16, 88, 144, 288)),
    (LargeSeg, 'expanded', (16, 72, 120, 672, 480)),
  ],
)
def test_taps(encoder, tap, channels):
  shapes = encoder_cases.shapes(encoder(32, tap=tap), 33, 33)
  assert [c for _, _, c in shapes] == list(channels)
  assert [h for h, _, _ in shapes] == [17, 9, 5, 3, 2]


def test_first_tap_is_the_strided_block():
  """Block 2 of the tiny network is the first of its stage, block 3 the last."""
  encoder, x = Tiny(tap='first'), encoder_cases.images(33, 33)
  weights = encoder_cases.variables(encoder)
  (first,) = encoder_cases.features(encoder, weights, x, slice(2, 3))
  block = flax.traverse_util.flatten_dict(weights['params']['block_3'])
  still = {
    path: np.zeros_like(v) if path[0] == 'project' else v
    for path, v in block.items()
  }
  weights['params']['block_3'] = flax.traverse_util.unflatten_dict(still)
  # Block 3 adds nothing to its input.
  (last,) = encoder_cases.features(Tiny(), weights, x, slice(2, 3))
  np.testing.assert_array_equal(first, last)


def test_expanded_tap_is_before_the_gates():
  """The projection reads the tapped map times the gates."""
  encoder, x = Tiny(tap='expanded'), encoder_cases.images(33, 33)
  weights = encoder_cases.variables(encoder)
  (wide,) = encoder_cases.features(encoder, weights, x, slice(3, 4))
  (narrow,) = encoder_cases.features(Tiny(), weights, x, slice(3, 4))
  block = weights['params']['block_5']
  se = block['squeeze_excite']
  hidden = wide.mean(axis=(1, 2)) @ se['reduce']['kernel'][0, 0]
  hidden = np.maximum(hidden + se['reduce']['bias'], 0)
  gate = hidden @ se['expand']['kernel'][0, 0] + se['expand']['bias']
  gate = np.clip(gate / 6 + 0.5, 0, 1)
  assert gate.std() > 0.01
  gated = wide * gate[:, None, None]
  projected = gated @ block['project']['conv']['kernel'][0, 0]
  means = weights['batch_stats']['block_5']['project']['norm']['bn']
  bn = block['project']['norm']['bn']
  projected = (projected - means['mean']) / np.sqrt(means['var'] + 1e-3)
  np.testing.assert_allclose(
    projected * bn['scale'] + bn['bias'], narrow, rtol=0, atol=1e-4
  )


def test_module_names():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny())['params'], sep='/'
  )
  assert flat['stem/conv/kernel'].shape == (3, 3, 3, 8)
  assert flat['block_1/expand/conv/kernel'].shape == (1, 1, 8, 16)
  assert flat['block_2/depthwise/conv/kernel'].shape == (5, 5, 1, 24)
  assert flat['block_2/squeeze_excite/reduce/kernel'].shape == (1, 1, 24, 8)
  assert flat['block_2/squeeze_excite/expand/bias'].shape == (24,)
  assert flat['block_2/project/norm/bn/scale'].shape == (24,)
  assert flat['top/conv/kernel'].shape == (1, 1, 48, 288)
  assert 'block_0/expand/conv/kernel' not in flat
  paddle = encoder_cases.variables(Tiny(**PADDLE))['params']
  assert paddle['block_0']['expand']['conv']['kernel'].shape == (1, 1, 8, 8)
  assert paddle['block_2']['squeeze_excite']['reduce']['bias'].shape == (6,)
  assert 'top' not in paddle


def test_alpha():
  # 0.75 of 16, 24, 40, 112 and 160, to multiples of 8.
  for rounding in ('torchvision', 'keras'):
    encoder = Large(32, alpha=0.75, rounding=rounding, top_conv=False)
    shapes = encoder_cases.shapes(encoder, 33, 33)
    assert [c for _, _, c in shapes] == [16, 24, 32, 88, 120]
  widths = {}
  for rounding in ('torchvision', 'keras'):
    params = encoder_cases.variables(Large(alpha=0.5, rounding=rounding))[
      'params'
    ]
    widths[rounding] = [
      params['stem']['conv']['kernel'].shape[-1],
      *(
        params[f'block_{i}']['depthwise']['conv']['kernel'].shape[-1]
        for i in (1, 3, 6, 8, 14)
      ),
    ]
  assert widths == {
    'torchvision': [8, 32, 40, 120, 96, 480],
    'keras': [16, 32, 48, 144, 96, 480],
  }


def test_minimalistic():
  params = encoder_cases.variables(Large(minimalistic=True))['params']
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  assert not any('squeeze_excite' in path for path in flat)
  kernels = {v.shape[0] for p, v in flat.items() if p.endswith('conv/kernel')}
  assert kernels == {1, 3}
  encoder = Tiny(minimalistic=True)
  x = encoder_cases.images(33, 33)
  top = encoder_cases.features(encoder, encoder_cases.variables(encoder), x)[-1]
  assert top.min() == 0.0  # hard-swish goes below


# At 33 x 65 each strided layer reads an odd map, with every padding.
@pytest.mark.parametrize(
  ('padding', 'size', 'output_strides'),
  [
    ('same', (33, 65), (8, 16)),
    ('symmetric', (64, 50), (4, 8, 16)),
    pytest.param('symmetric', (43, 44), (4, 8, 16), marks=pytest.mark.full),
  ],
)
def test_atrous_consistency(padding, size, output_strides):
  """With TF's dilation rule and constant gates, since means differ by grid."""
  encoder = lambda output_stride: Tiny(output_stride, padding=padding)
  weights = encoder_cases.constant_gates(encoder_cases.variables(encoder(32)))
  x = encoder_cases.images(*size)
  coarse = encoder_cases.features(encoder(32), weights, x)
  for output_stride in output_strides:
    fine = encoder_cases.features(encoder(output_stride), weights, x)
    encoder_cases.assert_subsampled(fine, coarse, output_stride)


def test_torchvision_dilates_the_block_without_its_stride():
  """The block that lost its stride reads its input at twice the rate."""
  weights = encoder_cases.constant_gates(encoder_cases.variables(Tiny(32)))
  x = encoder_cases.images(33, 65)
  coarse = encoder_cases.features(Tiny(32), weights, x)
  fine = encoder_cases.features(
    Tiny(16, dilation_rule='torchvision'), weights, x
  )
  np.testing.assert_allclose(fine[3], coarse[3], rtol=0, atol=1e-5)
  error = np.abs(fine[4][:, ::2, ::2] - coarse[4]).max()
  assert error > 0.1 * coarse[4].std()


# Blocks 0 .. 6 of Large and 0 .. 3 of Small are the same at output stride 16
# and more.
LARGE_PLAN = [(1, 1), (2, 1), (1, 1), (2, 1), (1, 1), (1, 1), (2, 1)]
SMALL_PLAN = [(2, 1), (2, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize(
  ('encoder', 'fields', 'plan'),
  [
    (
      Large(32),
      {},
      [*LARGE_PLAN, *(5 * [(1, 1)]), (2, 1), (1, 1), (1, 1)],
    ),
    (
      Large(16),
      {},
      [*LARGE_PLAN, *(5 * [(1, 1)]), (1, 1), (1, 2), (1, 2)],
    ),
    (
      Large(16),
      {'dilation_rule': 'torchvision'},
      [*LARGE_PLAN, *(5 * [(1, 1)]), (1, 2), (1, 2), (1, 2)],
    ),
    # Paddle's `large_os8` has these too.
    (
      Large(8),
      {},
      [*LARGE_PLAN[:-1], (1, 1), *(5 * [(1, 2)]), (1, 2), (1, 4), (1, 4)],
    ),
    (
      Large(8),
      {'dilation_rule': 'torchvision'},
      [*LARGE_PLAN[:-1], (1, 2), *(5 * [(1, 2)]), (1, 4), (1, 4), (1, 4)],
    ),
    (
      Large(16),
      {'multi_grid': (1, 2, 4)},
      [*LARGE_PLAN, *(5 * [(1, 1)]), (1, 1), (1, 4), (1, 8)],
    ),
    (
      Small(32),
      {},
      [*SMALL_PLAN, *(4 * [(1, 1)]), (2, 1), (1, 1), (1, 1)],
    ),
    (
      Small(16),
      {},
      [*SMALL_PLAN, *(4 * [(1, 1)]), (1, 1), (1, 2), (1, 2)],
    ),
    (
      Small(8),
      {},
      [*SMALL_PLAN[:-1], (1, 1), *(4 * [(1, 2)]), (1, 2), (1, 4), (1, 4)],
    ),
  ],
)
def test_rates(encoder, fields, plan):
  assert encoder_cases.depthwise_plan(encoder.clone(**fields)) == plan


def test_trains():
  encoder_cases.assert_trains(Tiny())


def test_trains_with_cpu_kernels():
  options = layers.Options(depthwise='shifted', pointwise='matmul')
  encoder_cases.assert_trains(Tiny(options=options))


def test_bfloat16():
  encoder_cases.assert_bfloat16(Tiny(options=layers.Options(dtype='bfloat16')))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'rounding': 'slim'}, r"rounding='slim' is not one of \('torchvision'"),
    ({'squeeze': 'half'}, "squeeze='half'"),
    ({'gate': 'tanh'}, r"gate='tanh' is not one of \('hard_sigmoid'"),
    ({'dilation_rule': 'smp'}, "dilation_rule='smp'"),
    ({'tap': 'low'}, "tap='low'"),
    ({'padding': 'valid'}, "padding='valid'"),
    ({'alpha': 0.0}, 'alpha=0.0 must be positive'),
    ({'output_stride': 12}, 'output_stride=12'),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)
