"""SwiftNet's decoder: its pyramid, lateral additions and invalid fields."""

import flax.linen as nn
import pytest

from deeplab.models import layers
from deeplab.models.heads import swiftnet
from tests.models.heads import head_cases

CHANNELS = (2, 3, 4, 5, 6)


def make(**fields):
  return swiftnet.SwiftNet(**({'num_classes': 3, 'channels': 8} | fields))


def test_logits_at_stride_4():
  (out,), _ = head_cases.trace(make(), head_cases.features(CHANNELS))
  assert out.shape == (2, 17, 13, 3)
  (out,), _ = head_cases.trace(
    make(stages=(2, 3)), head_cases.features(CHANNELS)
  )
  assert out.shape == (2, 9, 7, 3)


def test_parameters():
  """By hand, on ResNet-18; with its 11,176,512 the 11.8 M of the paper."""
  head = swiftnet.SwiftNet(num_classes=19)
  _, variables = head_cases.trace(
    head, head_cases.features((64, 64, 128, 256, 512))
  )
  conv = lambda a, b, k=1: 2 * a + k * k * a * b
  total = conv(512, 128) + 4 * conv(128, 32) + conv(256, 128)
  total += conv(64, 128) + conv(128, 128) + conv(256, 128)
  total += 3 * conv(128, 128, 3) + conv(128, 19) + 19
  assert head_cases.count(variables) == total == 621_331


def test_cells_are_about_square():
  """On a map of 16 x 32 pixels: 8 x 16 cells, 4 x 8, 2 x 4 and 1 x 2."""
  maps = head_cases.features((2, 3), [(64, 128), (16, 32)])
  head = make(stages=(0,))
  sizes = []

  def record(call, args, kwargs, context):
    if context.module.name and context.module.name.startswith('pool'):
      sizes.append(args[0].shape[1:3])
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    head_cases.trace(head, maps)
  assert sizes[:4] == [(8, 16), (4, 8), (2, 4), (1, 2)]


def test_no_convolution_is_followed_by_a_norm():
  """Each has BatchNorm and ReLU before it; sums are of linear maps."""
  head, maps = make(), head_cases.features(CHANNELS)
  norms = head_cases.calls(head, maps, layers.BatchNorm)
  convs = head_cases.calls(head, maps)
  assert {norm.activation for _, norm in norms} == {'relu'}
  assert [name.rsplit('/')[0].removesuffix('_norm') for name, _ in norms] == [
    name.rsplit('/')[0] for name, _ in convs
  ]


def test_bfloat16():
  head_cases.assert_bfloat16(make(), CHANNELS)


@pytest.mark.parametrize('stages', [(1, 2, 4), (3, 2, 1), (-1, 2), (1, 2, 5)])
def test_invalid_stages_fail(stages):
  with pytest.raises(ValueError, match='must ascend and be finer'):
    head_cases.trace(make(stages=stages), head_cases.features(CHANNELS))


def test_batch_of_one_fails_in_training():
  single = head_cases.features(CHANNELS, [(32, 32)] * 4 + [(2, 2)], batch=1)
  with pytest.raises(ValueError, match='raise batch_size'):
    head_cases.trace(make(), single, train=True)
  head_cases.trace(make(), single)


@pytest.mark.full
def test_trains():
  head_cases.assert_trains(
    make(), head_cases.features(CHANNELS, seed=0, batch=3)
  )
