import flax
import jax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models.encoders import xception
from tests.models import numpy_layers
from tests.models.encoders import encoder_cases

Tiny = xception.XceptionTiny
# An entry flow of five blocks, as Xception-71 has it.
FIVE = ((8, 2), (12, 1), (20, 2), (16, 1), (28, 2))


@pytest.mark.parametrize(
  ('encoder', 'entry', 'middle', 'parameters', 'statistics'),
  [
    (xception.Xception41, (128, 256, 728), 8, 24_920_560, 115_312),
    # With 3,188,101 in the head: the 41.0554 M of TF's VOC model.
    (xception.Xception65, (128, 256, 728), 16, 37_867_312, 185_200),
    (xception.Xception71, (128, 256, 256, 728, 728), 16, 40_289_736, 198_976),
  ],
)
def test_counts(encoder, entry, middle, parameters, statistics):
  """Counts by hand: the paper's figure 4, layer by layer."""
  separable = lambda a, b: 9 * a + 2 * a + a * b + 2 * b
  total = 9 * 3 * 32 + 64 + 9 * 32 * 64 + 128
  for a, b in zip((64, *entry), entry, strict=False):
    total += separable(a, b) + 2 * separable(b, b) + a * b + 2 * b
  total += middle * 3 * separable(728, 728)
  total += separable(728, 728) + separable(728, 1024) + separable(1024, 1024)
  total += 728 * 1024 + 2048
  total += separable(1024, 1536) + separable(1536, 1536)
  total += separable(1536, 2048)
  assert total == parameters
  assert encoder_cases.count(encoder()) == (parameters, statistics)


def test_xception_65_maps():
  assert encoder_cases.shapes(xception.Xception65(), 65, 64) == [
    (33, 32, 128),
    (17, 16, 256),
    (9, 8, 728),
    (5, 4, 1024),
    (5, 4, 2048),
  ]


def test_xception_71_taps_the_third_block_at_stride_4():
  assert encoder_cases.shapes(xception.Xception71(), 65, 64) == [
    (33, 32, 128),
    (17, 16, 256),
    (9, 8, 728),
    (5, 4, 1024),
    (5, 4, 2048),
  ]


def test_entry_flow_is_a_field():
  assert encoder_cases.shapes(Tiny(32, entry=FIVE), 33, 33) == [
    (17, 17, 8),
    (9, 9, 20),
    (5, 5, 28),
    (3, 3, 16),
    (2, 2, 32),
  ]


def reference_block(f, x, name, stride, shortcut, pre_activation=True):
  """A block of three separable convolutions; also the second one's map.

  A ReLU stands before each of them, the first included, and none after the
  sum; in the last block of the network a ReLU follows each layer instead.
  """
  before, after = numpy_layers.relu, lambda y: y
  if not pre_activation:
    before, after = after, before
  y, maps = x, []
  for i, step in enumerate((1, 1, stride), start=1):
    y = f.conv_norm(before(y), f'{name}/separable_{i}/depthwise')
    y = after(y[:, ::step, ::step])
    y = after(f.conv_norm(y, f'{name}/separable_{i}/pointwise'))
    maps.append(y)
  if shortcut == 'conv':
    y = y + f.conv_norm(x, f'{name}/shortcut')[:, ::stride, ::stride]
  elif shortcut == 'sum':
    y = y + x
  return y, maps[1]


def test_equals_numpy(random_variables):
  """The whole network at stride 32, against figure 4 of the paper."""
  encoder = Tiny(output_stride=32, bn_epsilon=0.01)
  images = np.random.default_rng(0).normal(size=(2, 49, 41, 3))
  images = images.astype(np.float32)
  variables = random_variables(encoder, images, False)
  f = numpy_layers.Layers(variables, 0.01)
  x = f.conv_bn(images.astype(np.float64), 'stem_1')[:, ::2, ::2]
  x = f.conv_bn(x, 'stem_2')
  expected = []
  for i, (_, stride) in enumerate(encoder.entry, start=1):
    x, unstrided = reference_block(f, x, f'entry_{i}', stride, 'conv')
    if stride > 1:
      expected.append(unstrided)
  for i in range(1, encoder.middle + 1):
    x, _ = reference_block(f, x, f'middle_{i}', 1, 'sum')
  x, unstrided = reference_block(f, x, 'exit_1', 2, 'conv')
  expected.append(unstrided)
  x, _ = reference_block(f, x, 'exit_2', 1, 'none', pre_activation=False)
  found = jax.jit(encoder.apply, static_argnums=2)(variables, images, False)
  assert len(found) == 5
  for ours, theirs in zip(found, [*expected, x], strict=True):
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.02
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_module_names():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny())['params'], sep='/'
  )
  depthwise = 'entry_1/separable_3/depthwise/conv/kernel'
  assert flat[depthwise].shape == (3, 3, 1, 8)
  assert flat['middle_1/separable_1/pointwise/norm/bn/scale'].shape == (16,)
  assert flat['exit_1/shortcut/conv/kernel'].shape == (1, 1, 16, 24)
  assert 'middle_1/shortcut/conv/kernel' not in flat
  assert 'exit_2/shortcut/conv/kernel' not in flat


@pytest.mark.parametrize(
  ('entry', 'size', 'output_strides'),
  [
    (Tiny.entry, (33, 65), (8,)),
    (Tiny.entry, (64, 50), (4, 16)),
    (FIVE, (64, 50), (8, 16)),
    pytest.param(Tiny.entry, (43, 44), (4, 8, 16), marks=pytest.mark.full),
    pytest.param(FIVE, (43, 44), (4, 8, 16), marks=pytest.mark.full),
  ],
)
def test_atrous_consistency(entry, size, output_strides):
  """With the entry flow of Xception-41 and 65, and of Xception-71."""
  encoder = lambda output_stride: Tiny(output_stride, entry=entry)
  weights, x = encoder_cases.variables(encoder(32)), encoder_cases.images(*size)
  coarse = encoder_cases.features(encoder(32), weights, x)
  # Taps are linear, the last map is activated.
  assert all(f.min() < 0 for f in coarse[:-1])
  assert coarse[-1].min() == 0.0
  for output_stride in output_strides:
    fine = encoder_cases.features(encoder(output_stride), weights, x)
    encoder_cases.assert_subsampled(fine, coarse, output_stride)


def test_rates():
  """Rates of the separable convolutions: entry, middle, exit flow."""
  entry = [(1, 1), (1, 1), (2, 1)]
  plan = encoder_cases.depthwise_plan(
    xception.Xception65(output_stride=16, multi_grid=(1, 2, 4))
  )
  assert plan == [
    *(3 * entry + 16 * 3 * [(1, 1)]),
    *((1, 1), (1, 1), (1, 1), (1, 2), (1, 4), (1, 8)),
  ]
  plan = encoder_cases.depthwise_plan(xception.Xception65(output_stride=8))
  assert plan == [
    *(2 * entry + 3 * [(1, 1)] + 16 * 3 * [(1, 2)]),
    *((1, 2), (1, 2), (1, 2), (1, 4), (1, 4), (1, 4)),
  ]


@pytest.mark.full
def test_trains():
  encoder_cases.assert_trains(Tiny())


def test_bfloat16():
  encoder_cases.assert_bfloat16(Tiny(options=layers.Options(dtype='bfloat16')))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'output_stride': 2}, 'output_stride=2'),
    ({'multi_grid': (1, 2)}, 'multi_grid='),
    ({'entry': ((8, 2), (8, 2))}, 'entry='),
    ({'exit': ((8, 8, 8),)}, 'exit='),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)
