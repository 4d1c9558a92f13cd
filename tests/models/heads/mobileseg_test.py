"""The MobileSeg head: its levels and its auxiliary outputs."""

import pytest

from deeplab.models import layers
from deeplab.models.heads import mobileseg
from tests.models.heads import head_cases

CHANNELS = (2, 3, 4, 5, 6)


def make(**fields):
  small = {
    'num_classes': 3,
    'context_channels': 8,
    'channels': (4, 5, 6),
    'classifier_channels': 7,
  }
  return mobileseg.MobileSeg(**(small | fields))


def test_three_outputs_in_training_and_one_in_evaluation():
  maps = head_cases.features(CHANNELS)
  trained, variables = head_cases.trace(make(), maps, train=True)
  assert [x.shape for x in trained] == [
    (2, 9, 7, 3),
    (2, 5, 4, 3),
    (2, 3, 2, 3),
  ]
  evaluated, _ = head_cases.trace(make(), maps)
  assert [x.shape for x in evaluated] == [(2, 9, 7, 3)]
  # Parameters exist in either mode.
  assert {k for k in variables['params'] if k.startswith('auxiliary')} == {
    'auxiliary1_conv',
    'auxiliary1_classifier',
    'auxiliary2_conv',
    'auxiliary2_classifier',
  }


def test_finer_stages():
  """Lite-HRNet's: strides 4, 8 and 16."""
  outputs, _ = head_cases.trace(
    make(stages=(1, 2, 3)), head_cases.features(CHANNELS[:4]), train=True
  )
  assert [x.shape[1:3] for x in outputs] == [(17, 13), (9, 7), (5, 4)]


@pytest.mark.parametrize(
  ('channels', 'count'),
  [
    # Published totals, with the two further outputs, less the encoder's:
    # PaddleSeg's MobileNetV2 has 1,812,800.
    ((16, 24, 32, 96, 320), 2_058_752 - 1_812_800),
    # By hand, at the widths of MobileNetV3-Large and GhostNet: in the context,
    # 3 * (160 * 128 + 128 + 256) + 18,176; skips 22,624 + 15,952 + 3,192 and
    # the decoder's 18,176 + 9,792 + 2,848; outputs 2,080 + 3,456 + 6,208.
    (
      (16, 24, 40, 112, 160),
      80_768 + 22_624 + 15_952 + 3_192 + 30_816 + 11_744,
    ),
  ],
)
def test_parameters(channels, count):
  head = mobileseg.MobileSeg(num_classes=19)
  _, variables = head_cases.trace(head, head_cases.features(channels))
  assert head_cases.count(variables) == count


def test_biases():
  """In the pooled 1x1 layers and the pointwise halves, and nowhere else."""
  for name, conv in head_cases.calls(make(), head_cases.features(CHANNELS)):
    expected = name.startswith('pool') or name.endswith('pointwise/conv')
    assert conv.use_bias == expected, name


def test_the_depthwise_halves_are_linear():
  for name, norm in head_cases.calls(
    make(), head_cases.features(CHANNELS), layers.BatchNorm
  ):
    linear = name.endswith('depthwise/norm')
    assert norm.activation == ('none' if linear else 'relu'), name


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'stages': (2, 3)}, 'must be of one length'),
    ({'stages': (), 'channels': ()}, 'must be of one length'),
    ({'stages': (2, 3, 5)}, r'stages=\(2, 3, 5\) must ascend .* 5 stages'),
    ({'stages': (-1, 3, 4)}, r'stages=\(-1, 3, 4\)'),
    ({'stages': (4, 3, 2)}, r'stages=\(4, 3, 2\)'),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    head_cases.trace(make(**fields), head_cases.features(CHANNELS))


def test_batch_of_one_fails_in_training():
  single = head_cases.features(CHANNELS, batch=1)
  with pytest.raises(ValueError, match='raise batch_size'):
    head_cases.trace(make(), single, train=True)
  head_cases.trace(make(bins=(2, 4)), single, train=True)
  head_cases.trace(make(), single)


@pytest.mark.full
def test_trains():
  maps = head_cases.features(CHANNELS, seed=0, batch=3)
  head_cases.assert_trains(make(), maps)
