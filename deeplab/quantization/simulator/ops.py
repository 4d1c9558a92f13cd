"""The operators that Qwix replaces, as TFLite's int8 kernels compute them.

Qwix's own operators and bookkeeping are private to it: its version is pinned.
"""

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
from deeplab.quantization.simulator import metadata

Array = jax.Array

_RATES = 'rhs_dilation'
# Arguments of convolutions that `cpu_kernels` knows.
_PLAIN = {
  'window_strides',
  'padding',
  _RATES,
  'dimension_numbers',
  'feature_group_count',
}


class OneWidth:
  """An operator reads what it writes: 8 bits, or 16; mixed into Qwix's.

  What the network is called with has 8 bits, whoever reads it.

  Attributes:
    change: the function (array on a grid, rule) to an array of that rule's
      type; `shared.Shared.change`.
  """

  change: Any = None

  def _maybe_fake_quant(self, array, rule, quant_stat_name):
    first = rule
    if metadata.is_wide(rule) and aux_data.get(array, metadata.INPUT, False):
      first = dataclasses.replace(rule, act_qtype=jnp.int8)
    array = super()._maybe_fake_quant(  # type: ignore[misc]
      array, first, quant_stat_name
    )
    own = aux_data.get(array, odml_ops.AuxDataKey.FQ_RULE, None)
    if own is None or rule is None or rule.act_qtype is None:
      return array
    if metadata.is_wide(own) == metadata.is_wide(rule):
      return array
    return self.change(array, rule)


class Conv(OneWidth, odml_ops.DotEinsumConv):
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
    scales = metadata.scale_of(x), metadata.scale_of(kernel)
    if scales[0] is None or scales[1] is None:
      return super()._call_original_op(x, kernel, **kwargs)
    # The sum of whole numbers is exact, also where an accelerator multiplies
    # in bfloat16 by default.
    steps = [
      metadata.passed(jnp.round(y), y)
      for y in (
        x / metadata.narrow(scales[0]),
        kernel / metadata.narrow(scales[1]),
      )
    ]
    unit = scales[0] * scales[1]
    long = aux_data.get(x, metadata.GRID).wide
    if long:  # more digits than float32 has
      steps = [fixed_point.wide(y) for y in steps]
    out = self._convolved(*steps, **kwargs)
    value = fixed_point.wide(out) * unit
    return metadata.note(
      metadata.narrow(out) * metadata.narrow(unit), value, unit, long
    )


class BatchNorm(odml_ops.BatchNorm):
  """BatchNorm: its shift is a bias.

  It is folded into the convolution before it; where there is none, or another
  one stands between, it is a depthwise 1x1 convolution itself, with a factor of
  8 bits a channel.
  """

  conv: type[Conv] = Conv
  change: Any = None
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
        or aux_data.get(x, metadata.NORMALIZED, False)
      )
      and norm.use_running_average
      and rule is not None
      and rule.act_qtype is not None
    ):
      return self._alone(norm, x, rule)
    out = super().__call__(norm, x, *args, **kwargs)
    total = metadata.sum_of(x)
    if total is not None and norm.use_running_average:
      out = metadata.scaled(out, total, *self._factors(norm))
    aux_data.set(out, metadata.NORMALIZED, True)
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
    factor = params['scale'] * metadata.narrow(1 / deviation)
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
      change=self.change,
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
    total = metadata.sum_of(y)
    if total is not None:
      value = total.value + metadata.in_units(shift, total.unit)
      metadata.note(out, value, total.unit, total.long)
    aux_data.set(out, odml_ops.AuxDataKey.ALLOW_FUSION, True)
    return self._fake_quant_output(out, rule)


class Ufunc(OneWidth, odml_ops.UfuncCall):
  """A bias behind a convolution, or a sum or product of activations."""

  def __call__(self, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    out: Array = super().__call__(*args, **kwargs)
    if self._output_allow_fusion:
      metadata.keep_rule(args[1], out)
    return out


class WholeUfunc(Ufunc):
  """A bias, a sum or a product of whole numbers."""

  def __call__(self, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    out = super().__call__(*args, **kwargs)
    total = metadata.sum_of(args[1])
    # Qwix found the first argument's operator to take the second as a bias.
    if self._op_name == 'add' and self._output_allow_fusion and total:
      bias = metadata.in_units(args[2], total.unit)
      return metadata.note(out, total.value + bias, total.unit, total.long)
    return out

  def _call_original_op(self, *args: Any, **kwargs: Any) -> Array:
    out = super()._call_original_op(*args, **kwargs)
    scales = [metadata.scale_of(x) for x in args[1:]]
    if None in scales or self._op_name not in ('add', 'multiply'):
      return out
    steps = [
      jnp.round(fixed_point.wide(x) / scale)
      for x, scale in zip(args[1:], scales, strict=True)
    ]
    if self._op_name == 'multiply':
      unit = scales[0] * scales[1]
      return metadata.note(out, steps[0] * steps[1] * unit, unit)
    # Summands are brought to the coarser scale, with 20 bits behind the point;
    # or 15, where they have 16 before it.
    fine = 2.0**15 if aux_data.get(args[1], metadata.GRID).wide else 2.0**20
    coarse = 2 * jnp.maximum(*scales)
    unit = coarse / fine
    parts = [
      fixed_point.multiplied(n * fine, scale / coarse)
      for n, scale in zip(steps, scales, strict=True)
    ]
    return metadata.note(out, (parts[0] + parts[1]) * unit, unit)


class Relu(odml_ops.CustomJvpCall):
  """ReLU and ReLU6, which the operator before them computes."""

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Computes the operator; arguments as the original's."""
    out = super().__call__(*args, **kwargs)
    function, x, *_ = args
    if function not in (jax.nn.relu, jax.nn.relu6):
      return out
    metadata.keep_rule(x, out)
    total = metadata.sum_of(x)
    if total is None:
      return out
    top = 6.0 if function is jax.nn.relu6 else None
    if total.long:  # whose product has fewer digits than where it ends
      value = jnp.maximum(total.value, 0.0)
      return metadata.note(out, value, total.unit, True, top)
    return metadata.note(out, jnp.clip(total.value, 0.0, top), total.unit)


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
    grid = aux_data.get(x, metadata.GRID, None)
    if grid is not None:
      out = grid.round(out, self._whole(x, grid, *args, **kwargs))
      aux_data.set(out, metadata.GRID, grid)
    aux_data.set(out, odml_ops.AuxDataKey.FQ_ARRAY, 'self')
    return self._fake_quant_output(out, rule)

  def _whole(
    self, x: Array, grid: metadata.Grid, *args: Any, **kwargs: Any
  ) -> Array | None:
    """Returns the result's integers; None where nothing is computed.

    A mean of float32 values is a half or none by their last bits.
    """
    if grid.zero is None:
      return None
    whole = jnp.round(fixed_point.wide(x) / fixed_point.wide(grid.scale))
    whole = jax.lax.stop_gradient(whole)
    if self._op_name == 'resize':
      return fixed_point.resize(whole + grid.zero, *args, **kwargs)
    steps = self._call_original_op(whole, *args, **kwargs) + grid.zero
    # A half is one in spite of the division's error.
    error = 1e-8 if steps.dtype == jnp.float64 else 2e-5
    return fixed_point.half_away(steps + error * jnp.sign(steps))
