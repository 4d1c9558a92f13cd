"""The operators that Qwix replaces, as TFLite's int8 kernels compute them.

Qwix's own operators and bookkeeping are private to it: its version is pinned.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from qwix._src import aux_data
from qwix._src.providers import odml_ops
from qwix._src.utils import flax_util

from deeplab.models import cpu_kernels
from deeplab.quantization import fixed_point

Array = jax.Array

# Beside Qwix's own notes on an array: the `Grid` that it was rounded to, the
# `Sum` that it is on the device before that is rounded to int8, and the kernel
# that makes it int8, a function (scale) to whole numbers; and whether a
# BatchNorm has been folded into what made it.
GRID, SUM, KERNEL, NORMALIZED = 'grid', 'sum', 'kernel', 'normalized'
_RATES = 'rhs_dilation'
# Arguments of convolutions that `cpu_kernels` knows.
_PLAIN = {
  'window_strides',
  'padding',
  _RATES,
  'dimension_numbers',
  'feature_group_count',
}


@dataclasses.dataclass(frozen=True)
class Grid:
  """Where an int8 tensor's values lie.

  Attributes:
    scale: of the shape that broadcasts.
    round: the function (values) onto the grid, halves away from the zero of the
      integers; or of (values, integers), what they are already.
    zero: zero point; None where nothing is computed.
  """

  scale: Array
  round: Callable[..., Array]
  zero: Array | float | None = None


@dataclasses.dataclass(frozen=True)
class Sum:
  """What an int8 operator adds up, an int32 number times a step.

  Attributes:
    value: the same values as the array's, rounded as on the device; float64
      where that is enabled, and without a gradient.
    unit: the step, of a shape that broadcasts.
  """

  value: Array
  unit: Array


def narrow(x: Array) -> Array:
  """Returns float32."""
  return x.astype(jnp.float32)


def _scale_of(array: Any) -> Any:
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


def note(array: Array, value: Array, unit: Array) -> Array:
  """Notes what an array is on the device."""
  stop = jax.lax.stop_gradient
  aux_data.set(array, SUM, Sum(stop(value), stop(unit)))
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
  value = total.value * fixed_point.wide(factor) + _in_units(shift, unit)
  return note(out, value, unit)


def _in_units(x: Array, unit: Array) -> Array:
  """Rounds biases to the int32 steps that they are stored in."""
  limit = float(2**31 - 128)
  steps = fixed_point.half_away(
    fixed_point.wide(x) / jnp.where(unit > 0, unit, 1.0)
  )
  return jnp.clip(steps, -limit, limit) * unit


class Conv(odml_ops.DotEinsumConv):
  """A convolution; its dimension numbers may be given as strings."""

  def __call__(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    rule, _ = self._get_rule_and_op_id_fn('transposed')
    if (
      max(kwargs.get('lhs_dilation') or (1,)) > 1 and rule and rule.weight_qtype
    ):
      path = '/'.join(flax_util.get_current_module_path())
      raise ValueError(
        f'the transposed convolution {path} has no int8 form in Qwix: keep it '
        f"in float (config.quantization.float_layers or --float_layers='{path}'"
        '), or export by --formats=int8'
      )
    kwargs['dimension_numbers'] = jax.lax.conv_dimension_numbers(
      x.shape, kernel.shape, kwargs['dimension_numbers']
    )
    return super().__call__(x, kernel, **kwargs)

  def _maybe_fake_quant(self, array, rule, quant_stat_name):
    # What an int8 operator gives to a float one is int8; Qwix would make the
    # one before compute in float, too.
    if rule is None or rule.act_qtype is None:
      rule = aux_data.get(array, odml_ops.AuxDataKey.FQ_RULE, rule)
    return super()._maybe_fake_quant(array, rule, quant_stat_name)


def _plain(x: Array, kernel: Array, kwargs: dict[str, Any]) -> bool:
  """Returns whether a convolution has one stride and one rate, of NHWC."""
  numbers = kwargs['dimension_numbers']
  same = [len(set(kwargs.get(k) or (1,))) for k in ('window_strides', _RATES)]
  return (
    same == [1, 1]
    and x.ndim == 4
    and numbers.lhs_spec == numbers.out_spec == (0, 3, 1, 2)
    and numbers.rhs_spec == (3, 2, 0, 1)
    and not isinstance(kwargs['padding'], str)
    and set(kwargs) <= _PLAIN
  )


class WholeConv(Conv):
  """A convolution of whole numbers.

  Attributes:
    depthwise: as of `layers.Options`.
    pointwise: likewise.
  """

  depthwise: str = 'conv'
  pointwise: str = 'conv'

  def _convolved(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    """Returns the convolution, in the form that is wanted."""
    groups = kwargs.get('feature_group_count', 1)
    cin, cout = x.shape[-1], kernel.shape[-1]
    if _plain(x, kernel, kwargs):
      stride, rate = (
        (kwargs.get(k) or (1,))[0] for k in ('window_strides', _RATES)
      )
      pads = tuple((int(a), int(b)) for a, b in kwargs['padding'])
      if self.depthwise == 'shifted' and groups == cin == cout > 1:
        return cpu_kernels.depthwise(x, kernel, stride, rate, pads)
      whole = kernel.shape[:2] == (1, 1) and stride == 1
      if self.pointwise == 'matmul' and groups == 1 and whole:
        return cpu_kernels.pointwise(x, kernel)
    return super()._call_original_op(x, kernel, **kwargs)

  def _call_original_op(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    scales = _scale_of(x), _scale_of(kernel)
    if scales[0] is None or scales[1] is None:
      return super()._call_original_op(x, kernel, **kwargs)
    # The sum of whole numbers is exact, also where an accelerator multiplies
    # in bfloat16 by default.
    steps = [
      passed(jnp.round(y), y)
      for y in (x / narrow(scales[0]), kernel / narrow(scales[1]))
    ]
    unit = scales[0] * scales[1]
    out = self._convolved(*steps, **kwargs)
    return note(out * narrow(unit), fixed_point.wide(out) * unit, unit)


class BatchNorm(odml_ops.BatchNorm):
  """BatchNorm: its shift is a bias.

  It is folded into the convolution before it; where there is none, or another
  one stands between, it is a depthwise 1x1 convolution itself, with a factor of
  8 bits a channel.
  """

  conv: type[Conv] = Conv
  # Values of {'params', 'batch_stats'}, where those of the network are traced.
  constants: Any = None

  def __call__(self, norm: nn.BatchNorm, x: Array, *args: Any, **kwargs: Any):
    """Computes the operator; arguments as the original's."""
    key = odml_ops.AuxDataKey
    rule, _ = self._get_rule_and_op_id_fn('batch_norm_alone')
    if (
      aux_data.get(x, key.IS_ACTIVATION, False)
      and (
        not aux_data.get(x, key.ALLOW_FUSION, False)
        or aux_data.get(x, NORMALIZED, False)
      )
      and norm.use_running_average
      and rule is not None
      and rule.act_qtype is not None
    ):
      return self._alone(norm, x, rule)
    out = super().__call__(norm, x, *args, **kwargs)
    total = sum_of(x)
    if total is not None and norm.use_running_average:
      out = scaled(out, total, *self._factors(norm))
    aux_data.set(out, NORMALIZED, True)
    return out

  def _factors(self, norm: nn.BatchNorm) -> tuple[Array, Array]:
    """Returns what the channels are multiplied by, and what is added."""
    values = norm.variables
    if self.constants is not None:
      values = {
        kind: functools.reduce(lambda x, name: x[name], norm.path, tree)
        for kind, tree in self.constants.items()
      }
    params, stats = values['params'], values['batch_stats']
    # In float32, as the converter has it.
    deviation = jnp.sqrt(fixed_point.wide(stats['var'] + norm.epsilon))
    factor = params['scale'] * narrow(1 / deviation)
    return factor, params['bias'] - stats['mean'] * factor

  def _alone(self, norm: nn.BatchNorm, x: Array, rule: Any) -> Array:
    """Returns BatchNorm as a convolution."""
    with contextlib.ExitStack() as stack:
      if self.constants is not None:
        stack.enter_context(jax.ensure_compile_time_eval())
      factor, shift = self._factors(norm)
      kernel = jnp.reshape(factor, (1, 1, 1, -1))
    aux_data.set(kernel, odml_ops.AuxDataKey.WEIGHT_NAME, 'scale')
    conv = self.conv(
      op_full_name='jax.lax.conv_general_dilated',
      get_rule_and_op_id_fn=self._get_rule_and_op_id_fn,
      fake_quant_fn=self._fake_quant_fn,
    )
    y = conv(
      x,
      kernel,
      window_strides=(1, 1),
      padding='VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=x.shape[-1],
    )
    out = y + shift
    total = sum_of(y)
    if total is not None:
      note(out, total.value + _in_units(shift, total.unit), total.unit)
    aux_data.set(out, odml_ops.AuxDataKey.ALLOW_FUSION, True)
    return self._fake_quant_output(out, rule)


class Ufunc(odml_ops.UfuncCall):
  """A bias behind a convolution, or a sum or product of activations."""

  def __call__(self, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    out = super().__call__(*args, **kwargs)
    total = sum_of(args[1])
    # Qwix found the first argument's operator to take the second as a bias.
    if self._op_name == 'add' and self._output_allow_fusion and total:
      bias = _in_units(args[2], total.unit)
      return note(out, total.value + bias, total.unit)
    return out

  def _call_original_op(self, *args: Any, **kwargs: Any) -> Array:
    out = super()._call_original_op(*args, **kwargs)
    scales = [_scale_of(x) for x in args[1:]]
    if None in scales or self._op_name not in ('add', 'multiply'):
      return out
    steps = [
      jnp.round(fixed_point.wide(x) / scale)
      for x, scale in zip(args[1:], scales, strict=True)
    ]
    if self._op_name == 'multiply':
      unit = scales[0] * scales[1]
      return note(out, steps[0] * steps[1] * unit, unit)
    # Summands are brought to the coarser scale, with 20 bits behind the point.
    coarse = 2 * jnp.maximum(*scales)
    unit = coarse * 2.0**-20
    parts = [
      fixed_point.multiplied(n * 2.0**20, scale / coarse)
      for n, scale in zip(steps, scales, strict=True)
    ]
    return note(out, (parts[0] + parts[1]) * unit, unit)


class Relu(odml_ops.CustomJvpCall):
  """ReLU and ReLU6, which the operator before them computes."""

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Computes the operator; arguments as the original's."""
    out = super().__call__(*args, **kwargs)
    function, x, *_ = args
    total = sum_of(x)
    if total is None or function not in (jax.nn.relu, jax.nn.relu6):
      return out
    top = 6.0 if function is jax.nn.relu6 else None
    return note(out, jnp.clip(total.value, 0.0, top), total.unit)


class Concatenate(odml_ops.Concatenate):
  """What is joined is rounded once, by the operators that made the parts."""

  def __call__(self, arrays, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    arrays = [rounded(x) for x in arrays]
    out = super().__call__(arrays, *args, **kwargs)
    # Parts that are all on grids are on several; Qwix takes them for one.
    aux_data.set(out, odml_ops.AuxDataKey.FQ_ARRAY, None)
    aux_data.set(out, GRID, None)
    aux_data.set(out, odml_ops.AuxDataKey.ALLOW_FUSION, False)
    sums = [sum_of(x) for x in arrays]
    known = [total for total in sums if total is not None]
    if len(known) < len(sums) or out.ndim != 4:
      return out
    values = jnp.concatenate([s.value for s in known], *args, **kwargs)
    units = [jnp.broadcast_to(s.unit, s.value.shape) for s in known]
    return note(out, values, jnp.concatenate(units, *args, **kwargs))


class SameGrid(odml_ops.QuantizedOp):
  """Resizes and mean values: TFLite gives them one scale for in and out.

  The result is rounded to the grid of the input, as the device does it. What
  is float stays float.
  """

  input_idx = (0,)

  def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    rule = aux_data.get(x, odml_ops.AuxDataKey.FQ_RULE, None)
    # A resize of what is on a grid needs no range, and takes no number of those
    # that name them: how many steps there are depends on the image's size.
    rounded = aux_data.get(x, odml_ops.AuxDataKey.FQ_ARRAY, None) == 'self'
    resizes = self._op_name == 'resize'
    name = ''
    if not (rounded and resizes):
      _, name = self._get_rule_and_op_id_fn(self._op_name)
    if rule is None:
      return self._fake_quant_output(
        self._call_original_op(x, *args, **kwargs), None
      )
    if resizes and x.shape[1:3] == tuple(args[0]):
      # It is no operator of the file, and rounds nothing. Its range is taken
      # all the same: at another size of images it may be one.
      if not rounded:
        self._maybe_fake_quant(jnp.array(x, copy=True), rule, name)
      return x
    x = self._maybe_fake_quant(x, rule, name)
    out = self._call_original_op(x, *args, **kwargs)
    grid = aux_data.get(x, GRID, None)
    if grid is not None:
      steps = None
      if resizes and grid.zero is not None:
        whole = (
          jnp.round(fixed_point.wide(x) / fixed_point.wide(grid.scale))
          + grid.zero
        )
        steps = fixed_point.resize(whole, *args, **kwargs)
      out = grid.round(out) if steps is None else grid.round(out, steps)
      aux_data.set(out, GRID, grid)
    aux_data.set(out, odml_ops.AuxDataKey.FQ_ARRAY, 'self')
    return self._fake_quant_output(out, rule)
