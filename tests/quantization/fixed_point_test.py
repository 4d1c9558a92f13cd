"""TFLite's integer arithmetic, against the same in Python integers."""

from fractions import Fraction
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.quantization import fixed_point


def test_halves_round_away_from_zero():
  x = jnp.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.4])
  np.testing.assert_array_equal(
    fixed_point.round_half_away(x), [-3.0, -2.0, -1.0, 1.0, 2.0, 2.0]
  )


def _multiply_in_integers(x, factor):
  """Returns TFLite's result, computed in Python integers."""
  fraction, exponent = math.frexp(factor)
  multiplier = round(fraction * 2**31)
  x <<= max(exponent, 0)
  shift = max(-exponent, 0)
  high = (x * multiplier + 2**30) >> 31
  half = Fraction(abs(high), 2**shift) + Fraction(1, 2)
  return int(math.copysign(math.floor(half), high)) if high else 0


def test_multiplication_rounds_twice():
  # 0.4 * 1 is 0.4: rounded to halves, and then to a whole number, it is 1.
  assert _multiply_in_integers(1, 0.4) == 1
  assert (
    float(
      fixed_point.multiply_by_quantized_multiplier(
        jnp.float32(1), jnp.float32(0.4)
      )
    )
    == 1
  )
  assert (
    float(
      fixed_point.multiply_by_quantized_multiplier(
        jnp.float32(1), jnp.float32(0.2)
      )
    )
    == 0
  )


@pytest.mark.parametrize('factor', [0.00731, 0.4, 0.5, 0.99, 1.7, 2**-6])
def test_multiplication_is_exact_in_float64(factor):
  rng = np.random.default_rng(0)
  x = rng.integers(-(2**20), 2**20, 2000)
  factor = float(np.float32(factor))
  with jax.enable_x64(True):
    found = fixed_point.multiply_by_quantized_multiplier(
      jnp.float64(x), jnp.float64(factor)
    )
  expected = [_multiply_in_integers(int(n), factor) for n in x]
  np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize('compiled', [False, True])
def test_exp2_is_exact(compiled):
  n = np.arange(-126, 128)
  two_to = (
    jax.jit(fixed_point.exact_exp2) if compiled else fixed_point.exact_exp2
  )
  expected = [float(Fraction(2) ** int(i)) for i in n]
  np.testing.assert_array_equal(np.float64(two_to(n)), expected)


@pytest.mark.parametrize('compiled', [False, True])
def test_halves_after_the_shift_round_away_from_zero(compiled):
  # -23681 * 0.735... is -17408, and that by 2^11 is -8.5.
  factor = 0.0003589393790080134
  run = (
    jax.jit(fixed_point.multiply_by_quantized_multiplier)
    if compiled
    else fixed_point.multiply_by_quantized_multiplier
  )
  with jax.enable_x64(True):
    found = float(run(jnp.float64(-23681), jnp.float64(factor)))
  assert found == _multiply_in_integers(-23681, factor) == -9


@pytest.mark.parametrize('aligned', [False, True])
def test_resize_by_hand(aligned):
  rng = np.random.default_rng(1)
  x = rng.integers(-128, 128, (1, 5, 7, 2))
  # By hand: one row of two pixels to five.
  row = np.array([0, 100]).reshape(1, 1, 2, 1)
  with jax.enable_x64(True):
    found = fixed_point.resize_bilinear(jnp.float64(row), (1, 5), aligned)
    same = fixed_point.resize_bilinear(jnp.float64(x), (5, 7), aligned)
  np.testing.assert_array_equal(same, x)
  # Steps of 410 and 256 of 1024ths: positions -0.3 .. 1.3 and 0 .. 1.
  expected = {
    False: [0, 10, 50, 90, 100],
    True: [0, 25, 50, 75, 100],
  }
  np.testing.assert_array_equal(np.asarray(found).ravel(), expected[aligned])


@pytest.mark.parametrize(
  ('aligned', 'row', 'expected'),
  [
    # The step of 409.6 is 410, so that the second position is 103 / 1024 and
    # -102.35 there; with 409 it is 101 / 1024 and -102.85.
    (False, [-128, 127], [-128, -102, 0, 102, 127]),
    # The step of 682.67 is 683: 42.75 there, and 42.50 with 682.
    (True, [-126, 127, 127], [-126, 43, 127, 127]),
  ],
)
def test_the_step_of_a_resize_is_rounded(aligned, row, expected):
  with jax.enable_x64(True):
    x = jnp.float64(row).reshape(1, 1, -1, 1)
    found = fixed_point.resize_bilinear(x, (1, len(expected)), aligned)
  np.testing.assert_array_equal(np.asarray(found).ravel(), expected)
