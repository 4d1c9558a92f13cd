"""STMicroelectronics' ASPP heads."""

import jax
import pytest

from deeplab.models.heads import st_aspp
from tests.models.heads import head_cases


def make(**fields):
  return st_aspp.STASPP(**({'num_classes': 2} | fields))


def maps(height, channels=8):
  return head_cases.features((channels,), [(height, 7)])


@pytest.mark.parametrize(
  ('height', 'rates'),
  # Images of 80, 256, 320, 416 and 512 rows, and of 257 and 513.
  [
    (5, (1, 2, 3)),
    (16, (3, 6, 9)),
    (20, (4, 8, 12)),
    (26, (5, 10, 15)),
    (32, (6, 12, 18)),
    (17, (3, 6, 9)),
    (33, (6, 12, 18)),
  ],
)
@pytest.mark.parametrize('separable', [False, True])
def test_rates_follow_the_height(height, rates, separable):
  head = make(separable=separable, channels=4)
  found = [
    conv.rate
    for name, conv in head_cases.calls(head, maps(height))
    if 'atrous' in name and conv.kernel == 3
  ]
  assert tuple(found) == rates


def test_rates_can_be_set():
  found = {
    conv.rate
    for _, conv in head_cases.calls(make(channels=4, rates=(2, 7)), maps(3))
  }
  assert found == {1, 2, 7}


def test_low_maps_need_explicit_rates():
  with pytest.raises(ValueError, match='4 rows are fewer than 5'):
    head_cases.trace(make(), maps(4))


@pytest.mark.parametrize(
  ('fields', 'count'),
  [
    # By hand at 288 channels: 74,496 for each 1x1 branch, 77,952 for each
    # separable one, 328,448 for the projection, 514 for the classifier.
    ({}, 2 * 74_496 + 3 * 77_952 + 328_448 + 514),
    ({'num_classes': 21}, 2 * 74_496 + 3 * 77_952 + 328_448 + 257 * 21),
    # Dense branches: 9 * 288 * 256 + 256 + 512.
    ({'separable': False}, 2 * 74_496 + 3 * 664_320 + 328_448 + 514),
  ],
)
def test_parameters(fields, count):
  _, variables = head_cases.trace(make(**fields), maps(16, 288))
  assert head_cases.count(variables) == count


def test_every_convolution_has_a_bias():
  assert all(conv.use_bias for _, conv in head_cases.calls(make(), maps(16)))


@pytest.mark.parametrize('train', [False, True])
def test_dropout_in_training_only(train, dropout_calls):
  keys = jax.random.split(jax.random.key(0), 2)
  jax.eval_shape(lambda: make().init(jax.random.key(0), maps(16), train, keys))
  ((rate, used),) = dropout_calls
  assert rate == 0.4
  assert (used is not None) == train


def test_batch_of_one_fails_in_training():
  single = head_cases.features((8,), [(16, 7)], batch=1)
  with pytest.raises(ValueError, match='raise batch_size'):
    head_cases.trace(make(), single, train=True)


@pytest.mark.parametrize('separable', [False, True])
def test_trains(separable):
  head = make(channels=4, separable=separable)
  head_cases.assert_trains(head, head_cases.features((4,), [(10, 7)], seed=0))
