"""The U-Net decoder."""

import pytest

from deeplab.models.heads import unet
from tests.models.heads import head_cases

CHANNELS = (2, 3, 4, 5, 6)


def make(**fields):
  return unet.UNet(**({'num_classes': 3, 'channels': (6, 5, 4, 3, 2)} | fields))


@pytest.mark.parametrize(
  ('steps', 'size'),
  [
    (0, (3, 2)),
    (1, (5, 4)),
    (3, (17, 13)),
    (4, (33, 25)),
    (5, (66, 50)),
  ],
)
def test_sizes_after_each_stage(steps, size):
  head = make(channels=(4,) * steps)
  (out,), variables = head_cases.trace(head, head_cases.features(CHANNELS))
  assert out.shape == (2, *size, 3)
  assert set(variables['params']) == {'classifier'} | {
    f'decoder{i}_conv{j}' for i in range(steps) for j in (0, 1)
  }


def test_parameters():
  _, variables = head_cases.trace(make(), head_cases.features(CHANNELS))
  total, x = 0, 6
  for skip, y in ((5, 6), (4, 5), (3, 4), (2, 3), (0, 2)):
    total += 9 * (x + skip) * y + 2 * y + 9 * y * y + 2 * y
    x = y
  assert head_cases.count(variables) == total + 9 * 2 * 3 + 3


def test_fields():
  head = make(convs=1, classifier_kernel=1)
  kernels = [
    c.kernel for _, c in head_cases.calls(head, head_cases.features(CHANNELS))
  ]
  assert kernels == [3, 3, 3, 3, 3, 1]


def test_more_decoder_stages_than_maps_fail():
  with pytest.raises(ValueError, match=r'6 decoder stages.* 5 stages'):
    head_cases.trace(make(channels=(2,) * 6), head_cases.features(CHANNELS))


@pytest.mark.full
def test_trains():
  head_cases.assert_trains(make(), head_cases.features(CHANNELS, seed=0))
