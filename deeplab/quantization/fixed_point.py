"""Integer arithmetic of TFLite's reference kernels, on floats.

Arrays hold integers in a floating dtype, so that gradients can pass.

It is exact where float64 is enabled (`jax.enable_x64`), as evaluations do. In
float32 about one value in 1e5 is off by one LSB, and a deep network spreads the
error.

Source: tensorflow/lite/kernels/internal, common.h and
reference/resize_bilinear.h.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def to_float64(x: Array) -> Array:
  """Casts an array of any shape to float64 if enabled, else to float32."""
  return x.astype(jax.dtypes.canonicalize_dtype(np.float64))


def round_half_away(x: Array) -> Array:
  """Rounds to integers elementwise, halves away from 0, as TFLite does."""
  return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def exact_exp2(n: Array) -> Array:
  """Returns 2^n, exactly, in float32.

  XLA's `exp2` is off in the last bit for most integers: a value that should be
  a half after a division by it is then rounded the wrong way.

  Args:
    n: integers from -126 to 127, any shape.
  """
  bits = (n.astype(jnp.int32) + 127) << 23
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


def multiply_by_quantized_multiplier(x: Array, factor: Array) -> Array:
  """Returns x * factor, rounded twice as TFLite's reference kernels do.

  `MultiplyByQuantizedMultiplier` multiplies by a 31-bit fraction, rounds,
  shifts right and rounds again. With factor 0.4, 0.8 / 2, it rounds 0.8 to 1
  and then 0.5 to 1: x = 1 becomes 1. Exact in float64.

  Args:
    x: integers, any shape.
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
  """Returns x * factor, rounded as kernels for 16-bit activations do.

  Their sums have 64 bits, and are multiplied by a 15-bit fraction.

  Args:
    x: integers, any shape.
    factor: of a shape that broadcasts.
  """
  short, exponent = _int16_multiplier(factor)
  shift = exact_exp2(jnp.clip(exponent - 15, -126, 127))
  return jnp.floor(to_float64(x) * short * shift + 0.5)


def _bilinear_weights(n_in: int, n_out: int, align_corners: bool) -> np.ndarray:
  """Returns the weights [n_out, n_in] of a resize, in units of 1 / 1024."""
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
  """Computes RESIZE_BILINEAR of int8 values, with positions in units of 2^-10.

  Args:
    x: integers [B, h, w, C], zero point included.
    size: (H, W).
    align_corners: True to keep the centers of corner pixels, False for
      half-pixel centers.

  Returns:
    Integers [B, H, W, C], zero point included.
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
  """Returns a * b / 2^15, rounded to integers, halves up."""
  return jnp.floor(a * b * 2.0**-15 + 0.5)


def _int16_multiplier(factor: Array) -> tuple[Array, Array]:
  """Returns (16-bit fraction, exponent) of a factor, as TFLite stores it."""
  fraction, exponent = jnp.frexp(to_float64(factor))
  fraction = jnp.floor(fraction * 2.0**31 + 0.5)
  carry = fraction == 2.0**31
  fraction = jnp.where(carry, 2.0**30, fraction)
  short = jnp.floor((fraction + 2.0**15) * 2.0**-16)
  return jnp.minimum(short, 2**15 - 1), exponent + carry


def hard_swish(x: Array, scale_in: Array, scale_out: Array) -> Array:
  """Computes HARD_SWISH of int8 values in 16 bits (reference/hard_swish.h).

  Args:
    x: integers less the zero point, any shape.
    scale_in: float32 scale of x.
    scale_out: float32 scale of the result.

  Returns:
    Integers of the shape of x, less the zero point of the result.
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
  # Truncated, as by the integer division of the kernel.
  product = jnp.trunc(gate * _rounding_doubling_high_mul(x, factor) * 2.0**-15)
  return round_half_away(product * exact_exp2(exponent))
