"""Which resizes a network has, and the steps in which targets make them."""

import jax
import jax.numpy as jnp
import pytest

from deeplab.models import resizing
from export.devices import resizes
from export.devices import targets


def whole(*pairs, aligned=False):
  return [resizes.Resize((a, a), (b, b), aligned) for a, b in pairs]


def test_found_in_order_and_within_functions():
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
    ('ethos-u55-128', [(17, 257)], True, 8),  # two steps of 4
    ('ethos-u55-128', [(65, 257)], True, 0),
    ('ethos-u55-128', [(1, 32), (32, 64)], False, 0),
    ('ethos-u55-128', [(1, 32), (32, 128), (128, 512)], False, 2),
    ('ethos-u85-256', [(16, 256)], False, 0),
    ('stm32n6', [(17, 257)], False, 0),  # any
  ],
)
def test_the_largest_ratio_that_will_do(name, pairs, aligned, ratio):
  target = targets.get_target(name)
  assert (
    resizes.choose_ratio(whole(*pairs, aligned=aligned), 0, target) == ratio
  )


def test_vela_wants_axes_that_grow_alike():
  wide = [resizes.Resize((32, 32), (32, 64), False)]
  with pytest.raises(ValueError, match='from 32x32 to 32x64'):
    resizes.choose_ratio(wide, 0, targets.get_target('ethos-u55-128'))
  assert resizes.choose_ratio(wide, 0, targets.get_target('stm32n6')) == 0


def test_what_was_trained_is_kept_if_it_will_do():
  target = targets.get_target('ethos-u85-256')
  assert resizes.choose_ratio(whole((16, 256)), 4, target) == 4
  assert resizes.choose_ratio(whole((16, 256)), 3, target) == 0
  target = targets.get_target('ethos-u55-128')
  assert resizes.choose_ratio(whole((16, 256)), 4, target) == 2


def test_a_resize_that_no_steps_make():
  target = targets.get_target('ethos-u55-128')
  message = 'cannot resize a map from 17x17 to 257x257: it takes ratios of 2 a'
  with pytest.raises(ValueError, match=message):
    resizes.choose_ratio(whole((32, 64), (17, 257)), 0, target)
