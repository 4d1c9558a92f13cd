"""ERFNet's decoder: sizes, parameter counts and invalid fields."""

import pytest

from deeplab.models import layers
from deeplab.models.heads import erfnet_decoder
from tests.models.heads import head_cases

CHANNELS = (4, 6, 8)


def make(**fields):
  return erfnet_decoder.ERFNet(
    **({'num_classes': 3, 'channels': (6, 4)} | fields)
  )


@pytest.mark.parametrize(
  ('sizes', 'size'),
  [
    ([(16, 32), (8, 16), (4, 8)], (32, 64)),
    # An image of 29 x 65: maps are cropped to the encoder's.
    ([(15, 33), (8, 17), (4, 9)], (30, 66)),
  ],
)
def test_logits_have_the_image_size(sizes, size):
  (out,), _ = head_cases.trace(make(), head_cases.features(CHANNELS, sizes))
  assert out.shape == (2, *size, 3)


def test_parameters():
  """By hand; with the encoder's 1,874,044 the 2.06 M of the paper."""
  head = erfnet_decoder.ERFNet(num_classes=19)
  _, variables = head_cases.trace(head, head_cases.features((16, 64, 128)))
  block = lambda c: 4 * (3 * c * c + c) + 2 * 2 * c
  total = 9 * 128 * 64 + 64 + 128 + 2 * block(64)
  total += 9 * 64 * 16 + 16 + 32 + 2 * block(16)
  total += 4 * 16 * 19 + 19
  assert head_cases.count(variables) == total == 190_147


def test_transposed_convolutions():
  found = head_cases.calls(
    make(), head_cases.features(CHANNELS), layers.ConvTranspose
  )
  assert [(name, c.kernel, c.stride, c.use_bias) for name, c in found] == [
    ('up0', 3, 2, True),
    ('up1', 3, 2, True),
    ('classifier', 2, 2, True),
  ]


def test_bfloat16():
  head_cases.assert_bfloat16(make(), CHANNELS)


def test_too_few_feature_maps_fail():
  with pytest.raises(ValueError, match='returns 2 stages'):
    head_cases.trace(make(), head_cases.features(CHANNELS[:2]))


@pytest.mark.full
def test_trains():
  head_cases.assert_trains(make(), head_cases.features(CHANNELS, seed=0))
