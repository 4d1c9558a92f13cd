"""Resizes of a network, and the stages in which targets run them."""

import jax
import jax.numpy as jnp
import pytest

from deeplab.models import resizing
from export.devices import resizes
from export.devices import targets


def square_resizes(*pairs, aligned=False):
  return [resizes.Resize((a, a), (b, b), aligned) for a, b in pairs]


def test_resizes_are_found_in_order_and_in_inner_functions():
  def compute(scale, x):
    x = jax.jit(lambda x: resizing.resize(x, (4, 6)))(scale * x)
    return resizing.resize_in_stages(x, (7, 21), True, 2)

  found = resizes.find_resizes(compute, jnp.ones(()), (1, 2, 3, 5))
  assert found == [
    ((2, 3), (4, 6), False),
    ((4, 6), (5, 11), True),
    ((5, 11), (7, 21), True),
  ]


@pytest.mark.parametrize(
  ('name', 'pairs', 'aligned', 'ratio'),
  [
    ('ethos-u55-128', [(16, 256)], False, 2),
    ('ethos-u55-128', [(17, 257)], True, 8),  # two stages of 4
    ('ethos-u55-128', [(65, 257)], True, 0),
    ('ethos-u55-128', [(1, 32), (32, 64)], False, 0),
    ('ethos-u55-128', [(1, 32), (32, 128), (128, 512)], False, 2),
    ('ethos-u85-256', [(16, 256)], False, 0),
    ('stm32n6', [(17, 257)], False, 0),  # any
  ],
)
def test_the_largest_supported_ratio_is_chosen(name, pairs, aligned, ratio):
  target = targets.get_target(name)
  assert (
    resizes.choose_ratio(square_resizes(*pairs, aligned=aligned), 0, target)
    == ratio
  )


def test_vela_requires_one_ratio_for_both_axes():
  uneven = [resizes.Resize((32, 32), (32, 64), False)]
  with pytest.raises(ValueError, match='from 32x32 to 32x64'):
    resizes.choose_ratio(uneven, 0, targets.get_target('ethos-u55-128'))
  assert resizes.choose_ratio(uneven, 0, targets.get_target('stm32n6')) == 0


def test_the_trained_ratio_is_kept_if_supported():
  target = targets.get_target('ethos-u85-256')
  assert resizes.choose_ratio(square_resizes((16, 256)), 4, target) == 4
  assert resizes.choose_ratio(square_resizes((16, 256)), 3, target) == 0
  target = targets.get_target('ethos-u55-128')
  assert resizes.choose_ratio(square_resizes((16, 256)), 4, target) == 2


def test_a_resize_that_no_stages_can_make():
  target = targets.get_target('ethos-u55-128')
  message = (
    'cannot resize a map from 17x17 to 257x257: the ratio of sizes per stage '
    'must be 2; choose'
  )
  with pytest.raises(ValueError, match=message):
    resizes.choose_ratio(square_resizes((32, 64), (17, 257)), 0, target)
