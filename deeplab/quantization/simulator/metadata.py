"""What is noted about arrays, beside what Qwix notes: what devices hold.

Qwix's own operators and bookkeeping are private to it: its version is pinned.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from qwix._src import aux_data
from qwix._src.providers import odml_ops

from deeplab.quantization import fixed_point

Array = jax.Array

# The `QuantParams` that an array was rounded to, the `Accumulator` that it is
# on the device before that is rounded to int8, and the kernel that makes it
# int8, a function (scale) to whole numbers; whether a BatchNorm has been folded
# into what made it; the range that it is to be rounded to, where that is no
# range of its own; and what it has become in the other number of bits.
QPARAMS, ACCUMULATOR, OUTPUT_KERNEL, BATCH_NORM_FOLDED = (
  'grid',
  'sum',
  'kernel',
  'normalized',
)
ASSIGNED_RANGE, REQUANTIZED = 'span', 'changed'
# Whether an array is what the network is called with.
MODEL_INPUT = 'input'


@dataclasses.dataclass(frozen=True)
class QuantParams:
  """Where the values of an int8 or int16 tensor lie.

  Attributes:
    scale: of the shape that broadcasts.
    fake_quant: the function (values, integers) onto the grid; the integers are
      what the values are there, None where nothing is computed.
    zero_point: zero point; None where nothing is computed.
    value_range: the range (low, high); None of weights.
    int16: it has 16 bits.
  """

  scale: Array
  fake_quant: Callable[..., Array]
  zero_point: Array | float | None = None
  value_range: tuple[Array, Array] | None = None
  int16: bool = False


@dataclasses.dataclass(frozen=True)
class Accumulator:
  """What an int8 operator adds up, an int32 number times a step.

  Attributes:
    value: the same values as the array's, rounded as on the device; float64
      where that is enabled, and without a gradient.
    scale: the step, of a shape that broadcasts.
    int64: whether it has 64 bits, as behind 16-bit activations.
    clamp_max: where its int8 or int16 ends; None for the end of the grid.
      Behind 32 bits the value itself ends there.
  """

  value: Array
  scale: Array
  int64: bool = False
  clamp_max: float | None = None


def to_float32(x: Array) -> Array:
  """Returns float32."""
  return x.astype(jnp.float32)


def get_scale(array: Any) -> Any:
  """Returns the scale of an array on a grid, or None."""
  grid = aux_data.get(array, QPARAMS, None)
  return None if grid is None else fixed_point.to_float64(grid.scale)


def get_accumulator(array: Any) -> Accumulator | None:
  """Returns the `Accumulator` that an array is on the device, or None."""
  total: Accumulator | None = aux_data.get(array, ACCUMULATOR, None)
  grid = aux_data.get(array, QPARAMS, None)
  if total is None and grid is not None and grid.zero_point is not None:
    scale = jax.lax.stop_gradient(fixed_point.to_float64(grid.scale))
    value = jax.lax.stop_gradient(fixed_point.to_float64(array))
    return Accumulator(jnp.round(value / scale) * scale, scale)
  return total


def get_fake_quantized(array: Array) -> Array:
  """Returns the int8 of an array that others have read as such, or itself.

  What moves values would otherwise be computed from more digits than the device
  has kept.
  """
  known = aux_data.get(array, odml_ops.AuxDataKey.FQ_ARRAY, None)
  return array if known is None or isinstance(known, str) else known


def set_output_kernel(array: Array, kernel: Callable[[Array], Array]) -> None:
  """Notes what makes an array int8; its numbers lie around 0."""
  aux_data.set(array, OUTPUT_KERNEL, kernel)


def get_output_kernel(array: Any) -> Callable[[Array], Array] | None:
  """Returns what makes an array int8, or None."""
  kernel: Callable[[Array], Array] | None = aux_data.get(
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
  """Notes what an array is on the device; see `Accumulator`."""
  stop = jax.lax.stop_gradient
  aux_data.set(
    array, ACCUMULATOR, Accumulator(stop(value), stop(scale), int64, clamp_max)
  )
  return array


def straight_through(value: Array, x: Array) -> Array:
  """Returns `value` with the gradient of x."""
  return x + jax.lax.stop_gradient(value.astype(x.dtype) - x)


def set_scaled_accumulator(
  out: Array, accumulator: Accumulator, factor: Array, shift: Array
) -> Array:
  """Notes that a sum was multiplied, and a constant added to it.

  Args:
    out: the result.
    accumulator: the sum.
    factor: folded into the kernel, and so into the step.
    shift: folded into the bias.
  """
  unit = accumulator.scale * jnp.abs(fixed_point.to_float64(factor))
  value = accumulator.value * fixed_point.to_float64(factor) + quantize_bias(
    shift, unit
  )
  return set_accumulator(out, value, unit, accumulator.int64)


def quantize_bias(x: Array, scale: Array) -> Array:
  """Rounds biases to the int32 steps that they are stored in."""
  limit = float(2**31 - 128)
  steps = fixed_point.round_half_away(
    fixed_point.to_float64(x) / jnp.where(scale > 0, scale, 1.0)
  )
  return jnp.clip(steps, -limit, limit) * scale


def propagate_rule(x: Any, out: Any) -> None:
  """Gives what an operator computes the rule of what it is a part of.

  An activation or a bias is in the operator before it, whose result has one
  type.
  """
  rule = aux_data.get(x, odml_ops.AuxDataKey.FQ_RULE, None)
  if rule is not None:
    for y in jax.tree.leaves(out):
      aux_data.set(y, odml_ops.AuxDataKey.FQ_RULE, rule)


def has_int16_activations(rule: Any) -> bool:
  """Returns whether a rule of Qwix has activations of 16 bits."""
  return rule is not None and rule.act_qtype == jnp.int16
