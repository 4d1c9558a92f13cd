"""Int8 operators, as TFLite's kernels compute them.

LiteRT's operators fall into three groups, by the scales of input and output
(https://ai.google.dev/edge/litert/models/quantization_spec):

  1. Their own scales for each input and the output: convolution, BatchNorm that
     stands alone, addition, multiplication, HARD_SWISH. Inputs and output are
     rounded. A bias, BatchNorm, ReLU or ReLU6 behind a convolution is fused
     into it: only the last result is rounded.
  2. One scale for input and output: resize, average and max pooling
     (`SameScale`), and layout operators such as pad and concatenate (module
     `layout_ops`).
  3. No int8 kernel: the input is dequantized, and the operator is float.

Classes `Integer*` compute the integers of the device for the simulation. Those
without the prefix only decide what is rounded: networks that observe ranges or
are marked for the converter use them.
"""

import contextlib
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import cpu_kernels
from deeplab.quantization import fixed_point
from deeplab.quantization.simulator import metadata
from deeplab.quantization.simulator import qwix_compat

Array = jax.Array

_RHS_DILATION = 'rhs_dilation'
# Arguments of convolutions that `cpu_kernels` supports.
_CPU_KERNEL_ARGUMENTS = {
  'window_strides',
  'padding',
  _RHS_DILATION,
  'dimension_numbers',
  'feature_group_count',
}


class SameBitWidth:
  """Mixin: inputs and output of an operator have the same bit width.

  Inputs of the other width are requantized. Images have 8 bits, whichever
  operator reads them.

  Attributes:
    requantize: the function (rounded array, rule) -> array of that rule's
      width, `ProviderBase.requantize`.
  """

  requantize: Any = None

  def _maybe_fake_quant(self, array, rule, quant_stat_name):
    input_rule = rule
    if metadata.has_int16_activations(rule) and qwix_compat.get_metadata(
      array, metadata.MODEL_INPUT, False
    ):
      input_rule = dataclasses.replace(rule, act_qtype=jnp.int8)
    array = super()._maybe_fake_quant(  # type: ignore[misc]
      array, input_rule, quant_stat_name
    )
    array_rule = metadata.get_rule(array)
    if array_rule is None or rule is None or rule.act_qtype is None:
      return array
    if metadata.has_int16_activations(
      array_rule
    ) == metadata.has_int16_activations(rule):
      return array
    return self.requantize(array, rule)


class Conv(SameBitWidth, qwix_compat.Conv):
  """A convolution; its dimension numbers may be given as strings."""

  def __call__(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    """Convolves x [B, H, W, C]; arguments as for `conv_general_dilated`.

    Raises:
      ValueError: a transposed convolution is to be int8.
    """
    rule, _ = self._get_rule_and_op_id_fn('transposed')
    if (
      max(kwargs.get('lhs_dilation') or (1,)) > 1 and rule and rule.weight_qtype
    ):
      path = '/'.join(qwix_compat.current_module_path())
      raise ValueError(
        f'Qwix cannot quantize the transposed convolution {path}: keep it in '
        f"float (config.quantization.float_layers or --float_layers='{path}'), "
        'or export by TensorFlow with --formats=int8'
      )
    kwargs['dimension_numbers'] = jax.lax.conv_dimension_numbers(
      x.shape, kernel.shape, kwargs['dimension_numbers']
    )
    return super().__call__(x, kernel, **kwargs)

  def _maybe_fake_quant(self, array, rule, quant_stat_name):
    # The output of an int8 operator is int8 even if a float operator reads it.
    # Qwix would let the operator before compute in float, too.
    if rule is None or rule.act_qtype is None:
      rule = metadata.get_rule(array, rule)
    return super()._maybe_fake_quant(array, rule, quant_stat_name)


def _is_supported_by_cpu_kernels(
  x: Array, kernel: Array, kwargs: dict[str, Any]
) -> bool:
  """Returns True for NHWC convolutions with one stride and one rate."""
  numbers = kwargs['dimension_numbers']
  num_strides, num_rates = (
    len(set(kwargs.get(k) or (1,))) for k in ('window_strides', _RHS_DILATION)
  )
  return (
    num_strides == num_rates == 1
    and x.ndim == 4
    and numbers.lhs_spec == numbers.out_spec == (0, 3, 1, 2)
    and numbers.rhs_spec == (3, 2, 0, 1)
    and not isinstance(kwargs['padding'], str)
    and set(kwargs) <= _CPU_KERNEL_ARGUMENTS
  )


class IntegerConv(Conv):
  """A convolution of integers, whose result is an exact sum.

  Attributes:
    depthwise: 'conv', or 'shifted' for the kernel of CPUs.
    pointwise: 'conv', or 'matmul' for the kernel of CPUs.
  """

  depthwise: str = 'conv'
  pointwise: str = 'conv'

  def _convolve(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    """Returns the convolution, by the kernels that the fields name."""
    groups = kwargs.get('feature_group_count', 1)
    cin, cout = x.shape[-1], kernel.shape[-1]
    if _is_supported_by_cpu_kernels(x, kernel, kwargs):
      stride, rate = (
        (kwargs.get(k) or (1,))[0] for k in ('window_strides', _RHS_DILATION)
      )
      pads = tuple((int(a), int(b)) for a, b in kwargs['padding'])
      if self.depthwise == 'shifted' and groups == cin == cout > 1:
        return cpu_kernels.depthwise_conv(x, kernel, stride, rate, pads)
      is_pointwise = kernel.shape[:2] == (1, 1) and stride == 1
      if self.pointwise == 'matmul' and groups == 1 and is_pointwise:
        return cpu_kernels.pointwise_conv(x, kernel)
    return super()._call_original_op(x, kernel, **kwargs)

  def _call_original_op(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    scales = metadata.get_scale(x), metadata.get_scale(kernel)
    if scales[0] is None or scales[1] is None:
      return super()._call_original_op(x, kernel, **kwargs)
    # A sum of integers is exact, also where an accelerator multiplies in
    # bfloat16 by default.
    integers = [
      metadata.straight_through(jnp.round(y), y)
      for y in (
        x / metadata.to_float32(scales[0]),
        kernel / metadata.to_float32(scales[1]),
      )
    ]
    scale = scales[0] * scales[1]
    qparams = metadata.get_qparams(x)
    assert qparams is not None  # it has a scale
    if qparams.int16:  # sums have more digits than float32
      integers = [fixed_point.to_float64(y) for y in integers]
    out = self._convolve(*integers, **kwargs)
    value = fixed_point.to_float64(out) * scale
    return metadata.set_accumulator(
      metadata.to_float32(out) * metadata.to_float32(scale),
      value,
      scale,
      qparams.int16,
    )


class BatchNorm(qwix_compat.BatchNorm):
  """BatchNorm on running statistics.

  It is folded into the convolution before it. If there is none, or another
  BatchNorm was folded already, it becomes a depthwise 1x1 convolution with an
  int8 factor for each channel.

  Attributes:
    conv: class of that convolution.
    requantize: as in `SameBitWidth`.
    constants: {'params', 'batch_stats'} of the network, if its own variables
      are traced; else None.
  """

  conv: type[Conv] = Conv
  requantize: Any = None
  constants: Any = None

  def __call__(self, norm: nn.BatchNorm, x: Array, *args: Any, **kwargs: Any):
    """Normalizes x [..., C]; arguments as for `nn.BatchNorm.__call__`."""
    get = qwix_compat.get_metadata
    rule, _ = self._get_rule_and_op_id_fn('batch_norm_alone')
    if (
      get(x, qwix_compat.IS_ACTIVATION, False)
      and (
        not get(x, qwix_compat.ALLOWS_FUSION, False)
        or get(x, metadata.BATCH_NORM_FOLDED, False)
      )
      and norm.use_running_average
      and rule is not None
      and rule.act_qtype is not None
    ):
      return self._as_depthwise_conv(norm, x, rule)
    out = super().__call__(norm, x, *args, **kwargs)
    accumulator = metadata.get_accumulator(x)
    if accumulator is not None and norm.use_running_average:
      out = metadata.set_scaled_accumulator(
        out, accumulator, *self._scale_and_shift(norm)
      )
    qwix_compat.set_metadata(out, metadata.BATCH_NORM_FOLDED, True)
    return out

  def _scale_and_shift(self, norm: nn.BatchNorm) -> tuple[Array, Array]:
    """Returns factor and offset of each channel, float32 [C]."""
    values = norm.variables
    if self.constants is not None:
      values = {
        kind: functools.reduce(lambda x, name: x[name], norm.path, tree)
        for kind, tree in self.constants.items()
      }
    params, stats = values['params'], values['batch_stats']
    # Rounded to float32 where the converter rounds.
    deviation = jnp.sqrt(fixed_point.to_float64(stats['var'] + norm.epsilon))
    factor = params['scale'] * metadata.to_float32(1 / deviation)
    return factor, params['bias'] - stats['mean'] * factor

  def _as_depthwise_conv(
    self, norm: nn.BatchNorm, x: Array, rule: Any
  ) -> Array:
    """Returns BatchNorm of x, computed as a depthwise 1x1 convolution."""
    with contextlib.ExitStack() as stack:
      if self.constants is not None:
        stack.enter_context(jax.ensure_compile_time_eval())
      factor, shift = self._scale_and_shift(norm)
      kernel = jnp.reshape(factor, (1, 1, 1, -1))
    qwix_compat.set_metadata(kernel, qwix_compat.WEIGHT_NAME, 'scale')
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
    accumulator = metadata.get_accumulator(y)
    if accumulator is not None:
      value = accumulator.value + metadata.quantize_bias(
        shift, accumulator.scale
      )
      metadata.set_accumulator(out, value, accumulator.scale, accumulator.int64)
    qwix_compat.set_metadata(out, qwix_compat.ALLOWS_FUSION, True)
    return self._fake_quant_output(out, rule)


class Ufunc(SameBitWidth, qwix_compat.Ufunc):
  """A bias behind a convolution, or the sum or product of two activations."""

  def __call__(self, *args: Any, **kwargs: Any) -> Array:
    """Calls the ufunc; arguments (ufunc, x, y)."""
    out: Array = super().__call__(*args, **kwargs)
    if self._output_allow_fusion:
      metadata.propagate_rule(args[1], out)
    return out


class IntegerUfunc(Ufunc):
  """A bias, sum or product of integers."""

  def __call__(self, *args: Any, **kwargs: Any) -> Array:
    """Calls the ufunc; arguments (ufunc, x, y)."""
    out = super().__call__(*args, **kwargs)
    accumulator = metadata.get_accumulator(args[1])
    # If the output allows fusion, Qwix has found that the operator of x takes
    # y as its bias.
    if self._op_name == 'add' and self._output_allow_fusion and accumulator:
      bias = metadata.quantize_bias(args[2], accumulator.scale)
      return metadata.set_accumulator(
        out, accumulator.value + bias, accumulator.scale, accumulator.int64
      )
    return out

  def _call_original_op(self, *args: Any, **kwargs: Any) -> Array:
    out = super()._call_original_op(*args, **kwargs)
    scales = [metadata.get_scale(x) for x in args[1:]]
    if None in scales or self._op_name not in ('add', 'multiply'):
      return out
    integers = [
      jnp.round(fixed_point.to_float64(x) / scale)
      for x, scale in zip(args[1:], scales, strict=True)
    ]
    if self._op_name == 'multiply':
      scale = scales[0] * scales[1]
      return metadata.set_accumulator(
        out, integers[0] * integers[1] * scale, scale
      )
    # The ADD kernel brings both summands to twice the larger scale, shifted
    # left by 20 bits, or by 15 for 16-bit activations.
    qparams = metadata.get_qparams(args[1])
    assert qparams is not None  # it has a scale
    shift = 2.0**15 if qparams.int16 else 2.0**20
    common = 2 * jnp.maximum(*scales)
    scale = common / shift
    summands = [
      fixed_point.multiply_by_quantized_multiplier(n * shift, own / common)
      for n, own in zip(integers, scales, strict=True)
    ]
    return metadata.set_accumulator(
      out, (summands[0] + summands[1]) * scale, scale
    )


class Relu(qwix_compat.CustomJvp):
  """ReLU and ReLU6, fused into the operator before them."""

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls the activation; arguments (function, x)."""
    out = super().__call__(*args, **kwargs)
    function, x, *_ = args
    if function not in (jax.nn.relu, jax.nn.relu6):
      return out
    metadata.propagate_rule(x, out)
    accumulator = metadata.get_accumulator(x)
    if accumulator is None:
      return out
    clamp_max = 6.0 if function is jax.nn.relu6 else None
    if accumulator.int64:
      # The upper bound applies to the output: the product of the sum with its
      # multiplier has fewer digits than the bound.
      value = jnp.maximum(accumulator.value, 0.0)
      return metadata.set_accumulator(
        out, value, accumulator.scale, True, clamp_max
      )
    return metadata.set_accumulator(
      out, jnp.clip(accumulator.value, 0.0, clamp_max), accumulator.scale
    )


class SameScale(qwix_compat.QuantizedOp):
  """Means, max pooling and a shared ReLU: one scale for input and output.

  The result is rounded with the scale of the input, as on the device. A float
  input stays float.
  """

  input_idx = (0,)

  def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
    """Calls the function; x is [B, H, W, C], others as the function's own."""
    _, name = self._get_rule_and_op_id_fn(self._op_name)
    return self._call_with_input_scale(x, name, *args, **kwargs)

  def _call_with_input_scale(
    self, x: Array, name: str, *args: Any, **kwargs: Any
  ) -> Array:
    """Calls the function.

    Args:
      x: [B, H, W, C].
      name: of the range of x; '' if x is rounded already.
      *args: those of the function behind x.
      **kwargs: those of the function.
    """
    rule = metadata.get_rule(x)
    if rule is None:
      out = self._call_original_op(x, *args, **kwargs)
      return self._fake_quant_output(out, None)
    x = self._maybe_fake_quant(x, rule, name)
    out = self._call_original_op(x, *args, **kwargs)
    qparams = metadata.get_qparams(x)
    if qparams is not None:
      integers = None
      if qparams.zero_point is not None:
        offsets = jnp.round(
          fixed_point.to_float64(x) / fixed_point.to_float64(qparams.scale)
        )
        integers = self._compute_integers(
          jax.lax.stop_gradient(offsets), qparams.zero_point, *args, **kwargs
        )
      out = qparams.fake_quant(out, integers)
      qwix_compat.set_metadata(out, metadata.QPARAMS, qparams)
    qwix_compat.set_metadata(out, qwix_compat.FAKE_QUANTIZED, 'self')
    return self._fake_quant_output(out, rule)

  def _compute_integers(
    self, offsets: Array, zero_point: Any, *args: Any, **kwargs: Any
  ) -> Array:
    """Returns the integers of the result.

    Args:
      offsets: integers of x, less the zero point.
      zero_point: that of x and of the result.
      *args: those of the function behind x.
      **kwargs: those of the function.
    """
    integers = self._call_original_op(offsets, *args, **kwargs) + zero_point
    # AVERAGE_POOL_2D rounds halves away from 0. A half may lack its last bits
    # after the division of the mean.
    error = 1e-8 if integers.dtype == jnp.float64 else 2e-5
    return fixed_point.round_half_away(integers + error * jnp.sign(integers))


class Resize(SameScale):
  """RESIZE_BILINEAR: one scale for input and output."""

  def __call__(self, x: Array, size: Any, *args: Any, **kwargs: Any) -> Array:
    """Resizes x [B, h, w, C] to `size`, (H, W); others as `resizing.resize`."""
    # Input that is rounded already needs no range. It must not take a number
    # of those that name ranges either: the number of stages of a resize depends
    # on the size of the image.
    is_rounded = (
      qwix_compat.get_metadata(x, qwix_compat.FAKE_QUANTIZED, None) == 'self'
    )
    name = ''
    if not is_rounded:
      _, name = self._get_rule_and_op_id_fn(self._op_name)
    rule = metadata.get_rule(x)
    if rule is not None and x.shape[1:3] == tuple(size):
      # The file holds no operator here, and nothing is rounded. The range is
      # recorded all the same: for images of another size there may be one.
      if not is_rounded:
        self._maybe_fake_quant(jnp.array(x, copy=True), rule, name)
      return x
    return self._call_with_input_scale(x, name, size, *args, **kwargs)

  def _compute_integers(
    self, offsets: Array, zero_point: Any, *args: Any, **kwargs: Any
  ) -> Array:
    return fixed_point.resize_bilinear(offsets + zero_point, *args, **kwargs)
