import jax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models.encoders import erfnet
from tests.models.encoders import encoder_cases

Tiny = erfnet.ERFNetTiny


def test_counts():
  """Counts by hand: the paper's table 1, each convolution with a bias."""
  block = lambda c: 4 * (3 * c * c + c) + 2 * 2 * c
  down = lambda a, b: 9 * a * (b - a) + (b - a) + 2 * b
  total = down(3, 16) + down(16, 64) + down(64, 128)
  total += 5 * block(64) + 8 * block(128)
  assert encoder_cases.count(erfnet.ERFNet())[0] == total == 1_874_044


def test_maps():
  assert encoder_cases.shapes(erfnet.ERFNet(), 65, 40) == [
    (33, 20, 16),
    (17, 10, 64),
    (9, 5, 128),
  ]


def test_rates():
  plan = [layer for layer in encoder_cases.kernel_plan(erfnet.ERFNet(), 1)]
  # The second 1x3 convolution of each block.
  assert [rate for _, rate in plan[1::2]] == 5 * [1] + 2 * [2, 4, 8, 16]
  assert {rate for _, rate in plan[::2]} == {1}


def test_downsampling_contains_the_maxima():
  layer = erfnet.DownsamplerBlock(
    3, layers.BatchNormConfig(0.9, 0.0), 'symmetric', layers.Options()
  )
  x = np.arange(1, 16, dtype=np.float32).reshape(1, 3, 5, 1)
  # BatchNorm is the identity at initialization.
  y, _ = layer.init_with_output(jax.random.key(0), x, False)
  assert y.shape == (1, 2, 3, 3)
  assert y[0, ..., 2].tolist() == [[7, 9, 10], [12, 14, 15]]


@pytest.mark.full
def test_trains():
  encoder_cases.assert_trains(Tiny())


def test_bfloat16():
  encoder_cases.assert_bfloat16(Tiny(options=layers.Options(dtype='bfloat16')))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'output_stride': 16}, 'output_stride=16 must be 8'),
    ({'multi_grid': (1, 2)}, r'multi_grid=\(1, 2\)'),
    ({'channels': (16, 64)}, r'channels=\(16, 64\) must be three'),
    ({'channels': (3, 8, 12)}, 'channels='),
    ({'channels': (8, 8, 12)}, 'channels='),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)


def test_the_first_stage_has_more_channels_than_the_image():
  def init(channels):
    return jax.eval_shape(
      lambda: Tiny().init(
        jax.random.key(0), np.zeros((1, 33, 33, channels), np.float32), False
      )
    )

  kernel = init(5)['params']['down1']['conv']['kernel']
  assert kernel.shape == (3, 3, 5, 1)
  with pytest.raises(ValueError, match='above 6, the channels of the images'):
    init(6)
