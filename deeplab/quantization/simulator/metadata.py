"""Metadata of arrays that Qwix does not have: the integers on the device.

Qwix notes for each array whether it is to be rounded, and by which rule. These
functions add the scale and zero point it was rounded to (`QuantParams`), and
the integer sum that the device holds before it rounds (`Accumulator`).
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from deeplab.quantization import fixed_point
from deeplab.quantization.simulator import qwix_compat

Array = jax.Array

# Keys, and what is stored under them:
QPARAMS = 'qparams'  # `QuantParams` that the array was rounded to
ACCUMULATOR = 'accumulator'  # `Accumulator` from which the array was computed
OUTPUT_KERNEL = 'output_kernel'  # function (scale) -> integers, without offset
BATCH_NORM_FOLDED = 'batch_norm_folded'  # True behind a folded BatchNorm
ASSIGNED_RANGE = 'assigned_range'  # (low, high) taken over from another array
REQUANTIZED = 'requantized'  # the array in the other bit width
MODEL_INPUT = 'model_input'  # True for images that the network is called with


@dataclasses.dataclass(frozen=True)
class QuantParams:
  """Scale and zero point of an int8 or int16 tensor.

  Attributes:
    scale: float32, of a shape that broadcasts against the tensor.
    fake_quant: the function (values, integers) that rounds values to this scale
      and zero point. `integers` are the stored ones, if the caller knows them;
      None where tensors are only marked.
    zero_point: zero point; None where tensors are only marked.
    value_range: the range (low, high); None for weights.
    int16: True for 16 bits.
  """

  scale: Array
  fake_quant: Callable[..., Array]
  zero_point: Array | float | None = None
  value_range: tuple[Array, Array] | None = None
  int16: bool = False


@dataclasses.dataclass(frozen=True)
class Accumulator:
  """The sum of an int8 operator before it is rounded: an integer times a scale.

  Attributes:
    value: integer * scale, of the array's shape, without a gradient; float64
      where that is enabled.
    scale: of a shape that broadcasts.
    int64: True for 64 bits, as behind 16-bit activations; else 32.
    clamp_max: upper bound of the int8 or int16 output, such as 6.0 for ReLU6;
      None for the largest integer. Only for `int64`: in 32 bits `value` itself
      is clamped.
  """

  value: Array
  scale: Array
  int64: bool = False
  clamp_max: float | None = None


def to_float32(x: Array) -> Array:
  """Casts an array of any shape to float32."""
  return x.astype(jnp.float32)


def get_qparams(array: Any) -> QuantParams | None:
  """Returns the scale and zero point an array was rounded to, or None."""
  found: QuantParams | None = qwix_compat.get_metadata(array, QPARAMS, None)
  return found


def get_scale(array: Any) -> Any:
  """Returns the scale an array was rounded to, in float64, or None."""
  qparams = get_qparams(array)
  return None if qparams is None else fixed_point.to_float64(qparams.scale)


def get_rule(array: Any, default: Any = None) -> Any:
  """Returns the Qwix rule by which the next operator rounds an array."""
  return qwix_compat.get_metadata(array, qwix_compat.RULE, default)


def get_accumulator(array: Any) -> Accumulator | None:
  """Returns the integer sum that an array stands for, or None.

  An array that was rounded stands for its own integers.
  """
  accumulator: Accumulator | None = qwix_compat.get_metadata(
    array, ACCUMULATOR, None
  )
  qparams = get_qparams(array)
  if (
    accumulator is None
    and qparams is not None
    and qparams.zero_point is not None
  ):
    scale = jax.lax.stop_gradient(fixed_point.to_float64(qparams.scale))
    value = jax.lax.stop_gradient(fixed_point.to_float64(array))
    return Accumulator(jnp.round(value / scale) * scale, scale)
  return accumulator


def get_fake_quantized(array: Array) -> Array:
  """Returns the rounded form, of any shape, of an array that was read before.

  Otherwise the array itself. Layout operators start from it, because the device
  has kept no more digits.
  """
  known = qwix_compat.get_metadata(array, qwix_compat.FAKE_QUANTIZED, None)
  return array if known is None or isinstance(known, str) else known


def set_output_kernel(array: Array, kernel: Callable[[Array], Array]) -> None:
  """Sets the function (output scale) -> integers that rounds an array.

  For operators that LiteRT computes by a formula of their own, such as
  HARD_SWISH. The function acts elementwise; its integers exclude the zero
  point.
  """
  qwix_compat.set_metadata(array, OUTPUT_KERNEL, kernel)


def get_output_kernel(array: Any) -> Callable[[Array], Array] | None:
  """Returns the elementwise function (output scale) -> integers, or None."""
  kernel: Callable[[Array], Array] | None = qwix_compat.get_metadata(
    array, OUTPUT_KERNEL, None
  )
  return kernel


def set_accumulator(
  array: Array,
  value: Array,
  scale: Array,
  int64: bool = False,
  clamp_max: float | None = None,
) -> Array:
  """Sets the `Accumulator` of an array, without gradients; returns the array.

  Args:
    array: the float32 result of an operator, of any shape.
    value: integer * scale, of the array's shape.
    scale: of a shape that broadcasts.
    int64: True for 64 bits, as behind 16-bit activations.
    clamp_max: upper bound of the rounded output, for `int64`.
  """
  stop = jax.lax.stop_gradient
  qwix_compat.set_metadata(
    array, ACCUMULATOR, Accumulator(stop(value), stop(scale), int64, clamp_max)
  )
  return array


def straight_through(value: Array, x: Array) -> Array:
  """Returns `value` elementwise, with the gradient of x (straight-through)."""
  return x + jax.lax.stop_gradient(value.astype(x.dtype) - x)


def set_scaled_accumulator(
  out: Array, accumulator: Accumulator, factor: Array, shift: Array
) -> Array:
  """Sets the accumulator of `out` = x * factor + shift; returns `out`.

  Args:
    out: the float32 result.
    accumulator: that of x.
    factor: [C], folded into the kernel, and so into the scale.
    shift: [C], folded into the bias.
  """
  scale = accumulator.scale * jnp.abs(fixed_point.to_float64(factor))
  value = accumulator.value * fixed_point.to_float64(factor) + quantize_bias(
    shift, scale
  )
  return set_accumulator(out, value, scale, accumulator.int64)


def quantize_bias(x: Array, scale: Array) -> Array:
  """Rounds biases [C] to the int32 multiples of `scale` that files store."""
  limit = float(2**31 - 128)
  steps = fixed_point.round_half_away(
    fixed_point.to_float64(x) / jnp.where(scale > 0, scale, 1.0)
  )
  return jnp.clip(steps, -limit, limit) * scale


def propagate_rule(x: Any, out: Any) -> None:
  """Gives the results of an operator the rule of its input x.

  For biases and activations: they are fused into the operator before them,
  whose output has one type.
  """
  rule = get_rule(x)
  if rule is not None:
    for y in jax.tree.leaves(out):
      qwix_compat.set_metadata(y, qwix_compat.RULE, rule)


def has_int16_activations(rule: Any) -> bool:
  """Returns True if a Qwix rule, or None for none, has 16-bit activations."""
  return rule is not None and rule.act_qtype == jnp.int16
