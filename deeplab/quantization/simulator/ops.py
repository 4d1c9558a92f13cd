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

_RHS_DILATION = 'rhs_dilation'
# Arguments of convolutions that `cpu_kernels` knows.
_PLAIN_CONV_ARGUMENTS = {
  'window_strides',
  'padding',
  _RHS_DILATION,
  'dimension_numbers',
  'feature_group_count',
}


class SameBitWidth:
  """An operator reads what it writes: 8 bits, or 16; mixed into Qwix's.

  What the network is called with has 8 bits, whoever reads it.

  Attributes:
    requantize: the function (array on a grid, rule) to an array of that rule's
      type; `shared.Shared.change`.
  """

  requantize: Any = None

  def _maybe_fake_quant(self, array, rule, quant_stat_name):
    first = rule
    if metadata.has_int16_activations(rule) and aux_data.get(
      array, metadata.MODEL_INPUT, False
    ):
      first = dataclasses.replace(rule, act_qtype=jnp.int8)
    array = super()._maybe_fake_quant(  # type: ignore[misc]
      array, first, quant_stat_name
    )
    own = aux_data.get(array, odml_ops.AuxDataKey.FQ_RULE, None)
    if own is None or rule is None or rule.act_qtype is None:
      return array
    if metadata.has_int16_activations(own) == metadata.has_int16_activations(
      rule
    ):
      return array
    return self.requantize(array, rule)


class Conv(SameBitWidth, odml_ops.DotEinsumConv):
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


def _is_plain_conv(x: Array, kernel: Array, kwargs: dict[str, Any]) -> bool:
  """Returns whether a convolution has one stride and one rate, of NHWC."""
  numbers = kwargs['dimension_numbers']
  same = [
    len(set(kwargs.get(k) or (1,))) for k in ('window_strides', _RHS_DILATION)
  ]
  return (
    same == [1, 1]
    and x.ndim == 4
    and numbers.lhs_spec == numbers.out_spec == (0, 3, 1, 2)
    and numbers.rhs_spec == (3, 2, 0, 1)
    and not isinstance(kwargs['padding'], str)
    and set(kwargs) <= _PLAIN_CONV_ARGUMENTS
  )


class IntegerConv(Conv):
  """A convolution of whole numbers.

  Attributes:
    depthwise: as of `layers.Options`.
    pointwise: likewise.
  """

  depthwise: str = 'conv'
  pointwise: str = 'conv'

  def _convolve(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    """Returns the convolution, in the form that is wanted."""
    groups = kwargs.get('feature_group_count', 1)
    cin, cout = x.shape[-1], kernel.shape[-1]
    if _is_plain_conv(x, kernel, kwargs):
      stride, rate = (
        (kwargs.get(k) or (1,))[0] for k in ('window_strides', _RHS_DILATION)
      )
      pads = tuple((int(a), int(b)) for a, b in kwargs['padding'])
      if self.depthwise == 'shifted' and groups == cin == cout > 1:
        return cpu_kernels.depthwise_conv(x, kernel, stride, rate, pads)
      whole = kernel.shape[:2] == (1, 1) and stride == 1
      if self.pointwise == 'matmul' and groups == 1 and whole:
        return cpu_kernels.pointwise_conv(x, kernel)
    return super()._call_original_op(x, kernel, **kwargs)

  def _call_original_op(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    scales = metadata.get_scale(x), metadata.get_scale(kernel)
    if scales[0] is None or scales[1] is None:
      return super()._call_original_op(x, kernel, **kwargs)
    # The sum of whole numbers is exact, also where an accelerator multiplies
    # in bfloat16 by default.
    steps = [
      metadata.straight_through(jnp.round(y), y)
      for y in (
        x / metadata.to_float32(scales[0]),
        kernel / metadata.to_float32(scales[1]),
      )
    ]
    unit = scales[0] * scales[1]
    long = aux_data.get(x, metadata.QPARAMS).int16
    if long:  # more digits than float32 has
      steps = [fixed_point.to_float64(y) for y in steps]
    out = self._convolve(*steps, **kwargs)
    value = fixed_point.to_float64(out) * unit
    return metadata.set_accumulator(
      metadata.to_float32(out) * metadata.to_float32(unit), value, unit, long
    )


class BatchNorm(odml_ops.BatchNorm):
  """BatchNorm: its shift is a bias.

  It is folded into the convolution before it; where there is none, or another
  one stands between, it is a depthwise 1x1 convolution itself, with a factor of
  8 bits a channel.
  """

  conv: type[Conv] = Conv
  requantize: Any = None
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
        or aux_data.get(x, metadata.BATCH_NORM_FOLDED, False)
      )
      and norm.use_running_average
      and rule is not None
      and rule.act_qtype is not None
    ):
      return self._as_depthwise_conv(norm, x, rule)
    out = super().__call__(norm, x, *args, **kwargs)
    total = metadata.get_accumulator(x)
    if total is not None and norm.use_running_average:
      out = metadata.set_scaled_accumulator(
        out, total, *self._scale_and_shift(norm)
      )
    aux_data.set(out, metadata.BATCH_NORM_FOLDED, True)
    return out

  def _scale_and_shift(self, norm: nn.BatchNorm) -> tuple[Array, Array]:
    """Returns what the channels are multiplied by, and what is added."""
    values = norm.variables
    if self.constants is not None:
      values = {
        kind: functools.reduce(lambda x, name: x[name], norm.path, tree)
        for kind, tree in self.constants.items()
      }
    params, stats = values['params'], values['batch_stats']
    # In float32, as the converter has it.
    deviation = jnp.sqrt(fixed_point.to_float64(stats['var'] + norm.epsilon))
    factor = params['scale'] * metadata.to_float32(1 / deviation)
    return factor, params['bias'] - stats['mean'] * factor

  def _as_depthwise_conv(
    self, norm: nn.BatchNorm, x: Array, rule: Any
  ) -> Array:
    """Returns BatchNorm as a convolution."""
    with contextlib.ExitStack() as stack:
      if self.constants is not None:
        stack.enter_context(jax.ensure_compile_time_eval())
      factor, shift = self._scale_and_shift(norm)
      kernel = jnp.reshape(factor, (1, 1, 1, -1))
    aux_data.set(kernel, odml_ops.AuxDataKey.WEIGHT_NAME, 'scale')
    conv = self.conv(
      op_full_name='jax.lax.conv_general_dilated',
      get_rule_and_op_id_fn=self._get_rule_and_op_id_fn,
      fake_quant_fn=self._fake_quant_fn,
      requantize=self.requantize,
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
    total = metadata.get_accumulator(y)
    if total is not None:
      value = total.value + metadata.quantize_bias(shift, total.scale)
      metadata.set_accumulator(out, value, total.scale, total.int64)
    aux_data.set(out, odml_ops.AuxDataKey.ALLOW_FUSION, True)
    return self._fake_quant_output(out, rule)


class Ufunc(SameBitWidth, odml_ops.UfuncCall):
  """A bias behind a convolution, or a sum or product of activations."""

  def __call__(self, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    out: Array = super().__call__(*args, **kwargs)
    if self._output_allow_fusion:
      metadata.propagate_rule(args[1], out)
    return out


class IntegerUfunc(Ufunc):
  """A bias, a sum or a product of whole numbers."""

  def __call__(self, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    out = super().__call__(*args, **kwargs)
    total = metadata.get_accumulator(args[1])
    # Qwix found the first argument's operator to take the second as a bias.
    if self._op_name == 'add' and self._output_allow_fusion and total:
      bias = metadata.quantize_bias(args[2], total.scale)
      return metadata.set_accumulator(
        out, total.value + bias, total.scale, total.int64
      )
    return out

  def _call_original_op(self, *args: Any, **kwargs: Any) -> Array:
    out = super()._call_original_op(*args, **kwargs)
    scales = [metadata.get_scale(x) for x in args[1:]]
    if None in scales or self._op_name not in ('add', 'multiply'):
      return out
    steps = [
      jnp.round(fixed_point.to_float64(x) / scale)
      for x, scale in zip(args[1:], scales, strict=True)
    ]
    if self._op_name == 'multiply':
      unit = scales[0] * scales[1]
      return metadata.set_accumulator(out, steps[0] * steps[1] * unit, unit)
    # Summands are brought to the coarser scale, with 20 bits behind the point;
    # or 15, where they have 16 before it.
    fine = 2.0**15 if aux_data.get(args[1], metadata.QPARAMS).int16 else 2.0**20
    coarse = 2 * jnp.maximum(*scales)
    unit = coarse / fine
    parts = [
      fixed_point.multiply_by_quantized_multiplier(n * fine, scale / coarse)
      for n, scale in zip(steps, scales, strict=True)
    ]
    return metadata.set_accumulator(out, (parts[0] + parts[1]) * unit, unit)


class Relu(odml_ops.CustomJvpCall):
  """ReLU and ReLU6, which the operator before them computes."""

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Computes the operator; arguments as the original's."""
    out = super().__call__(*args, **kwargs)
    function, x, *_ = args
    if function not in (jax.nn.relu, jax.nn.relu6):
      return out
    metadata.propagate_rule(x, out)
    total = metadata.get_accumulator(x)
    if total is None:
      return out
    top = 6.0 if function is jax.nn.relu6 else None
    if total.int64:  # whose product has fewer digits than where it ends
      value = jnp.maximum(total.value, 0.0)
      return metadata.set_accumulator(out, value, total.scale, True, top)
    return metadata.set_accumulator(
      out, jnp.clip(total.value, 0.0, top), total.scale
    )


class SameScale(odml_ops.QuantizedOp):
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
    grid = aux_data.get(x, metadata.QPARAMS, None)
    if grid is not None:
      out = grid.fake_quant(out, self._integer_result(x, grid, *args, **kwargs))
      aux_data.set(out, metadata.QPARAMS, grid)
    aux_data.set(out, odml_ops.AuxDataKey.FQ_ARRAY, 'self')
    return self._fake_quant_output(out, rule)

  def _integer_result(
    self, x: Array, grid: metadata.QuantParams, *args: Any, **kwargs: Any
  ) -> Array | None:
    """Returns the result's integers; None where nothing is computed.

    A mean of float32 values is a half or none by their last bits.
    """
    if grid.zero_point is None:
      return None
    whole = jnp.round(
      fixed_point.to_float64(x) / fixed_point.to_float64(grid.scale)
    )
    whole = jax.lax.stop_gradient(whole)
    if self._op_name == 'resize':
      return fixed_point.resize_bilinear(
        whole + grid.zero_point, *args, **kwargs
      )
    steps = self._call_original_op(whole, *args, **kwargs) + grid.zero_point
    # A half is one in spite of the division's error.
    error = 1e-8 if steps.dtype == jnp.float64 else 2e-5
    return fixed_point.round_half_away(steps + error * jnp.sign(steps))
