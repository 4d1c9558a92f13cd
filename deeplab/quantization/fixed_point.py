"""Integer arithmetic of TFLite's reference kernels, on floats that are whole.

Exact to the last bit where float64 is enabled (`jax.enable_x64`), as it is in
evaluations. In float32 one value of some hundred thousand comes out a step off,
and a deep network makes many of one.

Source: tensorflow/lite/kernels/internal, common.h and
reference/resize_bilinear.h.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def to_float64(x: Array) -> Array:
  """Returns float64 where that is enabled, as evaluations do."""
  return x.astype(jax.dtypes.canonicalize_dtype(np.float64))


def round_half_away(x: Array) -> Array:
  """Rounds to whole numbers, halves away from 0, as TFLite's kernels do."""
  return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def exact_exp2(n: Array) -> Array:
  """Returns 2^n, float32 to the last bit.

  XLA's `exp2` is a bit off for most whole numbers, and what should be a half
  is none after a division by it.

  Args:
    n: whole numbers from -126 to 127.
  """
  bits = (n.astype(jnp.int32) + 127) << 23
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


def multiply_by_quantized_multiplier(x: Array, factor: Array) -> Array:
  """Returns x * factor, rounded as TFLite's reference kernels do: twice.

  They multiply by a 31-bit fraction, round, shift right and round again. With
  factor 0.4 that is to halves and then to whole numbers: 1 becomes 1. Exact to
  the last bit in float64.

  Args:
    x: whole numbers.
    factor: of a shape that broadcasts.
  """
  fraction, exponent = jnp.frexp(to_float64(factor))
  if fraction.dtype == jnp.float64:
    fraction = jnp.floor(fraction * 2.0**31 + 0.5) * 2.0**-31
  left = exact_exp2(jnp.clip(exponent, 0, 127))
  right = exact_exp2(jnp.clip(-exponent, 0, 127))
  return round_half_away(
    jnp.floor(to_float64(x) * left * fraction + 0.5) / right
  )


def multiply_int64_by_quantized_multiplier(x: Array, factor: Array) -> Array:
  """Returns x * factor as kernels of 16-bit activations round it.

  Their sums have 64 bits, and are multiplied by a fraction of 15.

  Args:
    x: whole numbers.
    factor: of a shape that broadcasts.
  """
  short, exponent = _int16_multiplier(factor)
  shift = exact_exp2(jnp.clip(exponent - 15, -126, 127))
  return jnp.floor(to_float64(x) * short * shift + 0.5)


def _bilinear_weights(n_in: int, n_out: int, align_corners: bool) -> np.ndarray:
  """Returns the [n_out, n_in] weights of a resize, in units of 1 / 1024."""
  step = (1024 * n_in + n_out // 2) // n_out
  if align_corners and n_out > 1:
    step = (1024 * (n_in - 1) + (n_out - 1) // 2) // (n_out - 1)
  weights = np.zeros((n_out, n_in))
  for i in range(n_out):
    place = i * step if align_corners else i * step + step // 2 - 512
    low = max(int(place / 1024), 0)
    high = min(int((place + 1023) / 1024), n_in - 1)
    weights[i, low] += 1024 - (place - 1024 * low)
    weights[i, high] += place - 1024 * low
  return weights


def resize_bilinear(
  x: Array, size: Sequence[int], align_corners: bool = False
) -> Array:
  """RESIZE_BILINEAR of int8 values, whose positions have ten binary places.

  Args:
    x: whole numbers [B, h, w, C], zero point included.
    size: (H, W).
    align_corners: see `resizing.resize`.
  """
  rows = _bilinear_weights(x.shape[1], int(size[0]), align_corners).astype(
    x.dtype
  )
  columns = _bilinear_weights(x.shape[2], int(size[1]), align_corners).astype(
    x.dtype
  )
  x = jnp.einsum('Hh,bhwc->bHwc', rows, x, precision='highest')
  x = jnp.einsum('Ww,bhwc->bhWc', columns, x, precision='highest')
  return round_half_away(x * 2.0**-20)


def _rounding_doubling_high_mul(a: Array, b: Array) -> Array:
  """Returns a * b / 2^15, rounded to whole numbers, halves up."""
  return jnp.floor(a * b * 2.0**-15 + 0.5)


def _int16_multiplier(factor: Array) -> tuple[Array, Array]:
  """Returns (16-bit fraction, exponent) of a factor."""
  fraction, exponent = jnp.frexp(to_float64(factor))
  fraction = jnp.floor(fraction * 2.0**31 + 0.5)
  carry = fraction == 2.0**31
  fraction = jnp.where(carry, 2.0**30, fraction)
  short = jnp.floor((fraction + 2.0**15) * 2.0**-16)
  return jnp.minimum(short, 2**15 - 1), exponent + carry


def hard_swish(x: Array, scale_in: Array, scale_out: Array) -> Array:
  """HARD_SWISH of int8 values, in 16 bits (reference/hard_swish.h).

  Args:
    x: whole numbers, zero point taken off.
    scale_in: their step, float32.
    scale_out: step of the result, float32.

  Returns:
    Whole numbers, without the zero point.
  """
  limit = lambda n: jnp.clip(n, -(2**15), 2**15 - 1)
  fine = scale_in * jnp.float32(1 / 128)
  factor, exponent = _int16_multiplier(fine / scale_out)
  gate_factor, gate_exponent = _int16_multiplier(fine / jnp.float32(3 / 2**15))
  x = 128 * x
  gate = limit(x * exact_exp2(jnp.maximum(gate_exponent - 1, 0)))
  gate = _rounding_doubling_high_mul(gate, gate_factor)
  gate = jnp.where(gate_exponent > 0, limit(2 * gate), gate)
  gate = round_half_away(gate * exact_exp2(jnp.minimum(gate_exponent, 0)))
  gate = jnp.floor((gate + 2**15) / 2)
  # No rounding here: the kernel's division drops what is behind the point.
  product = jnp.trunc(gate * _rounding_doubling_high_mul(x, factor) * 2.0**-15)
  return round_half_away(product * exact_exp2(exponent))
