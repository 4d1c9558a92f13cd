"""The grids of tensors, int8 and int16: scales and zero points of the files."""

import jax
import jax.numpy as jnp

from deeplab.quantization import fixed_point

Array = jax.Array


def _divide_exactly(x: Array, n: int) -> Array:
  """Returns x / n to the last bit, where float64 is enabled.

  XLA multiplies by 1 / n in float32, if it compiles a whole graph; and the
  scales of the file are computed one operation at a time.
  """
  return (fixed_point.to_float64(x) / n).astype(jnp.float32)


def _power_of_two_scale(absmax: Array) -> Array:
  # Rounded first: 2^-7 must not become 2^-6 by an error in the last bit.
  exponent = jnp.log2(jnp.maximum(_divide_exactly(absmax, 127), 2.0**-20))
  return fixed_point.exact_exp2(jnp.ceil(exponent - 1e-6))


def activation_qparams(
  low: Array, high: Array, power_of_two: bool, int16_activations: bool = False
) -> tuple[Array, Array | None]:
  """Returns (scale, zero point) of int8 for a range that holds 0.

  Args:
    low: float32, 0 or less.
    high: float32, 0 or more.
    power_of_two: see `rules.Rules`; the zero point is then None.
    int16_activations: of int16, whose zero point is None, too.
  """
  if int16_activations:
    absmax = jnp.maximum(jnp.maximum(-low, high), 2.0**-12)
    return _divide_exactly(absmax, 2**15 - 1), None
  if power_of_two:
    return _power_of_two_scale(jnp.maximum(-low, high)), None
  # LiteRT refuses the factors that smaller scales lead to.
  high = jnp.maximum(high, low + 255 * 2.0**-20)
  scale = _divide_exactly(high - low, 255)
  return scale, jnp.clip(jnp.round(-128 - low / scale), -128, 127)


def weight_scale(
  absmax: Array, power_of_two: bool, int16_activations: bool = False
) -> Array:
  """Returns the scales of a kernel; zero points are 0.

  Args:
    absmax: largest absolute weight of each channel, or of all.
    power_of_two: see `rules.Rules`.
    int16_activations: what it reads has 16 bits.
  """
  if power_of_two:
    return _power_of_two_scale(absmax)
  # Qwix divides by 127.5, and its largest weight saturates.
  scale = _divide_exactly(absmax, 127)
  # A dead channel's would be so small that its int32 bias overflows; sooner,
  # where the step of what it reads is a 128th or less.
  largest = jnp.maximum(jnp.max(scale), 2.0**-20)
  return jnp.maximum(scale, largest * 2.0 ** (-7 if int16_activations else -14))
