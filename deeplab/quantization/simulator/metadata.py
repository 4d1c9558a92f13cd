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

# The `Grid` that an array was rounded to, the `Sum` that it is on the device
# before that is rounded to int8, and the kernel that makes it int8, a function
# (scale) to whole numbers; whether a BatchNorm has been folded into what made
# it; the range that it is to be rounded to, where that is no range of its own;
# and what it has become in the other number of bits.
GRID, SUM, KERNEL, NORMALIZED = 'grid', 'sum', 'kernel', 'normalized'
SPAN, CHANGED = 'span', 'changed'
# Whether an array is what the network is called with.
INPUT = 'input'


@dataclasses.dataclass(frozen=True)
class Grid:
  """Where the values of an int8 or int16 tensor lie.

  Attributes:
    scale: of the shape that broadcasts.
    round: the function (values, integers) onto the grid; the integers are what
      the values are there, None where nothing is computed.
    zero: zero point; None where nothing is computed.
    span: the range (low, high); None of weights.
    wide: it has 16 bits.
  """

  scale: Array
  round: Callable[..., Array]
  zero: Array | float | None = None
  span: tuple[Array, Array] | None = None
  wide: bool = False


@dataclasses.dataclass(frozen=True)
class Sum:
  """What an int8 operator adds up, an int32 number times a step.

  Attributes:
    value: the same values as the array's, rounded as on the device; float64
      where that is enabled, and without a gradient.
    unit: the step, of a shape that broadcasts.
    long: whether it has 64 bits, as behind 16-bit activations.
    top: where its int8 or int16 ends; None for the end of the grid. Behind 32
      bits the value itself ends there.
  """

  value: Array
  unit: Array
  long: bool = False
  top: float | None = None


def narrow(x: Array) -> Array:
  """Returns float32."""
  return x.astype(jnp.float32)


def scale_of(array: Any) -> Any:
  """Returns the scale of an array on a grid, or None."""
  grid = aux_data.get(array, GRID, None)
  return None if grid is None else fixed_point.wide(grid.scale)


def sum_of(array: Any) -> Sum | None:
  """Returns the `Sum` that an array is on the device, or None."""
  total: Sum | None = aux_data.get(array, SUM, None)
  grid = aux_data.get(array, GRID, None)
  if total is None and grid is not None and grid.zero is not None:
    scale = jax.lax.stop_gradient(fixed_point.wide(grid.scale))
    value = jax.lax.stop_gradient(fixed_point.wide(array))
    return Sum(jnp.round(value / scale) * scale, scale)
  return total


def rounded(array: Array) -> Array:
  """Returns the int8 of an array that others have read as such, or itself.

  What moves values would otherwise be computed from more digits than the device
  has kept.
  """
  known = aux_data.get(array, odml_ops.AuxDataKey.FQ_ARRAY, None)
  return array if known is None or isinstance(known, str) else known


def note_kernel(array: Array, kernel: Callable[[Array], Array]) -> None:
  """Notes what makes an array int8; its numbers lie around 0."""
  aux_data.set(array, KERNEL, kernel)


def kernel_of(array: Any) -> Callable[[Array], Array] | None:
  """Returns what makes an array int8, or None."""
  kernel: Callable[[Array], Array] | None = aux_data.get(array, KERNEL, None)
  return kernel


def note(
  array: Array,
  value: Array,
  unit: Array,
  long: bool = False,
  top: float | None = None,
) -> Array:
  """Notes what an array is on the device; see `Sum`."""
  stop = jax.lax.stop_gradient
  aux_data.set(array, SUM, Sum(stop(value), stop(unit), long, top))
  return array


def passed(value: Array, x: Array) -> Array:
  """Returns `value` with the gradient of x."""
  return x + jax.lax.stop_gradient(value.astype(x.dtype) - x)


def scaled(out: Array, total: Sum, factor: Array, shift: Array) -> Array:
  """Notes that a sum was multiplied, and a constant added to it.

  Args:
    out: the result.
    total: the sum.
    factor: folded into the kernel, and so into the step.
    shift: folded into the bias.
  """
  unit = total.unit * jnp.abs(fixed_point.wide(factor))
  value = total.value * fixed_point.wide(factor) + in_units(shift, unit)
  return note(out, value, unit, total.long)


def in_units(x: Array, unit: Array) -> Array:
  """Rounds biases to the int32 steps that they are stored in."""
  limit = float(2**31 - 128)
  steps = fixed_point.half_away(
    fixed_point.wide(x) / jnp.where(unit > 0, unit, 1.0)
  )
  return jnp.clip(steps, -limit, limit) * unit


def keep_rule(x: Any, out: Any) -> None:
  """Gives what an operator computes the rule of what it is a part of.

  An activation or a bias is in the operator before it, whose result has one
  type.
  """
  rule = aux_data.get(x, odml_ops.AuxDataKey.FQ_RULE, None)
  if rule is not None:
    for y in jax.tree.leaves(out):
      aux_data.set(y, odml_ops.AuxDataKey.FQ_RULE, rule)


def is_wide(rule: Any) -> bool:
  """Returns whether a rule of Qwix has activations of 16 bits."""
  return rule is not None and rule.act_qtype == jnp.int16
