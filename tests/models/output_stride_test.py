import pytest

from deeplab.models import output_stride

# One entry per stage of two layers: stem, then strides 1, 2, 2, 2, 2.
STRIDES = (2, 1, 1, 2, 1, 2, 1, 2, 1, 2, 1)


@pytest.mark.parametrize(
  ('wanted', 'strides', 'rates'),
  [
    (32, (2, 1, 1, 2, 1, 2, 1, 2, 1, 2, 1), (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
    (16, (2, 1, 1, 2, 1, 2, 1, 2, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2)),
    (8, (2, 1, 1, 2, 1, 2, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 4)),
    (4, (2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1, 2, 2, 4, 4, 8)),
  ],
)
def test_layer_without_its_stride_keeps_its_rate(wanted, strides, rates):
  plan = output_stride.atrous(STRIDES, wanted)
  assert tuple(layer.stride for layer in plan) == strides
  assert tuple(layer.rate for layer in plan) == rates


@pytest.mark.parametrize(
  ('wanted', 'rates'),
  [
    (16, (1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2)),
    (8, (1, 1, 1, 1, 1, 1, 1, 2, 2, 4, 4)),
  ],
)
def test_layer_without_its_stride_has_the_next_rate(wanted, rates):
  plan = output_stride.atrous(STRIDES, wanted, rule='torchvision')
  assert tuple(layer.rate for layer in plan) == rates


def test_multi_grid_multiplies_the_last_rates():
  plan = output_stride.atrous(STRIDES, 16, (1, 2, 4))
  assert [rate for _, rate in plan[-4:]] == [1, 1, 2, 8]
  plan = output_stride.atrous(STRIDES, 32, (1, 2, 4))
  assert [rate for _, rate in plan[-4:]] == [1, 1, 2, 4]


@pytest.mark.parametrize('wanted', [0, 2, 12, 64, '16'])
def test_other_output_strides_fail(wanted):
  with pytest.raises(ValueError, match=r'output_stride=.* is not one of \(4'):
    output_stride.atrous(STRIDES, wanted)


def test_unreachable_output_stride_fails():
  with pytest.raises(ValueError, match='cannot be reached'):
    output_stride.atrous((2, 2, 2), 16)
  with pytest.raises(ValueError, match='cannot be reached'):
    output_stride.atrous((2, 3, 2), 4)


@pytest.mark.parametrize('multi_grid', [(0,), (1,) * 12])
def test_invalid_multi_grid_fails(multi_grid):
  with pytest.raises(ValueError, match='multi_grid='):
    output_stride.atrous(STRIDES, 16, multi_grid)
