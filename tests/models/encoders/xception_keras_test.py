"""Keras' Xception: the same function at every output stride."""

import flax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models import output_stride
from deeplab.models.encoders import xception_keras
from tests.models.encoders import encoder_cases

Tiny = xception_keras.XceptionKerasTiny


def test_counts():
  """Less the classifier's 2,049,000: Keras' 22,910,480 in all."""
  parameters, statistics = encoder_cases.count(xception_keras.XceptionKeras())
  assert (parameters, statistics) == (20_806_952, 54_528)
  assert parameters + statistics + 2_049_000 == 22_910_480


def test_maps():
  assert encoder_cases.shapes(xception_keras.XceptionKeras(), 65, 64) == [
    (33, 32, 128),
    (17, 16, 256),
    (9, 8, 728),
    (5, 4, 1024),
    (5, 4, 2048),
  ]
  # Equal to Keras at its own image size.
  encoder = xception_keras.XceptionKeras(output_stride=32, valid_stem=True)
  sizes = [shape[0] for shape in encoder_cases.shapes(encoder, 299, 299)]
  assert sizes == [147, 74, 37, 19, 10]


def test_module_names():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny())['params'], sep='/'
  )
  assert flat['block1_conv1/conv/kernel'].shape == (3, 3, 3, 4)
  assert flat['block5/separable_3/depthwise/kernel'].shape == (3, 3, 1, 16)
  assert flat['block6/shortcut/conv/kernel'].shape == (1, 1, 16, 24)
  shortcuts = {name.split('/')[0] for name in flat if 'shortcut' in name}
  assert shortcuts == {'block2', 'block3', 'block4', 'block6'}


@pytest.mark.parametrize(
  ('size', 'layer', 'padding'),
  [
    ((7, 8), (2, 1), 'same'),
    ((7, 8), (2, 1), 'symmetric'),
    ((8, 9), (2, 1), 'symmetric'),
    ((7, 8), (1, 1), 'same'),
    ((7, 8), (1, 2), 'symmetric'),
    ((3, 9), (1, 4), 'same'),
  ],
)
def test_max_pool_equals_the_definition(size, layer, padding):
  x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
  stride, rate = layer
  pads = layers.explicit_padding(padding, size, 3, stride, rate)
  padded = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
  expected = np.empty((2, -(-size[0] // stride), -(-size[1] // stride), 3))
  for i, j in np.ndindex(*expected.shape[1:3]):
    window = padded[
      :,
      stride * i : stride * i + 2 * rate + 1 : rate,
      stride * j : stride * j + 2 * rate + 1 : rate,
    ]
    expected[:, i, j] = window.max((1, 2))
  actual = xception_keras.atrous_max_pool(
    x, output_stride.StrideRate(*layer), padding
  )
  np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
  ('fields', 'size', 'output_strides'),
  [
    ({}, (33, 65), (8,)),
    ({'padding': 'symmetric'}, (64, 50), (4, 16)),
    # The stem of Keras makes 17 rows of 39.
    ({'valid_stem': True}, (39, 71), (8,)),
    pytest.param(
      {'padding': 'symmetric'}, (43, 44), (4, 8, 16), marks=pytest.mark.full
    ),
  ],
)
def test_atrous_consistency(fields, size, output_strides):
  encoder = lambda output_stride: Tiny(output_stride, **fields)
  weights, x = encoder_cases.variables(encoder(32)), encoder_cases.images(*size)
  coarse = encoder_cases.features(encoder(32), weights, x)
  # Taps are linear, the last map is activated.
  assert all(f.min() < 0 for f in coarse[:-1])
  assert coarse[-1].min() == 0.0
  for stride in output_strides:
    fine = encoder_cases.features(encoder(stride), weights, x)
    encoder_cases.assert_subsampled(fine, coarse, stride)


def test_rates():
  plan = encoder_cases.depthwise_plan(Tiny(8, multi_grid=(1, 2)))
  assert plan == [
    *(6 * [(1, 1)]),
    *(3 * [(1, 2)]),
    *((1, 2), (1, 2)),
    *((1, 4), (1, 8)),
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
    ({'multi_grid': (1, 2, 4)}, r'multi_grid=\(1, 2, 4\) must hold'),
    ({'padding': 'keras'}, "padding='keras'"),
    ({'entry': (8, 8)}, r'entry=\(8, 8\) must hold'),
    ({'exit': ((8, 8, 8), (8, 8))}, 'exit='),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)
