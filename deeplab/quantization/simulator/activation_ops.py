"""Activation functions in int8, as TFLite's kernels compute them."""

from typing import Any

import jax
import jax.numpy as jnp

from deeplab.quantization import fixed_point
from deeplab.quantization.simulator import metadata
from deeplab.quantization.simulator import ops
from deeplab.quantization.simulator import qwix_compat

Array = jax.Array


class _Int8Only(ops.SameBitWidth, qwix_compat.QuantizedOp):
  """An operator that has no kernel for 16-bit activations."""

  def _maybe_fake_quant(self, array, rule, quant_stat_name):
    self._reject_int16(rule)
    return super()._maybe_fake_quant(array, rule, quant_stat_name)

  def _reject_int16(self, rule: Any) -> None:
    """Raises an error for a rule with 16-bit activations.

    Raises:
      ValueError: the message names the layer.
    """
    if metadata.has_int16_activations(rule):
      path = '/'.join(qwix_compat.current_module_path())
      raise ValueError(
        f'{self._op_name} in {path} has no kernel for 16-bit activations: '
        'leave the layer out of wide_layers (config.quantization.wide_layers '
        'or --wide_layers)'
      )


class HardSwish(_Int8Only):
  """HARD_SWISH, x * relu6(x + 3) / 6, with its own input and output scale."""

  input_idx = (0,)


class IntegerHardSwish(HardSwish):
  """HARD_SWISH of integers."""

  def _call_original_op(self, x: Array, *args: Any, **kwargs: Any) -> Array:
    out = super()._call_original_op(x, *args, **kwargs)
    qparams = metadata.get_qparams(x)
    if qparams is not None:
      integers = jnp.round(
        fixed_point.to_float64(x) / fixed_point.to_float64(qparams.scale)
      )
      metadata.set_output_kernel(
        out,
        lambda scale: fixed_point.hard_swish(integers, qparams.scale, scale),
      )
    return out


class Sigmoid(_Int8Only):
  """LOGISTIC, whose output always has scale 1 / 256 and zero point -128."""

  input_idx = (0,)
  fixed_range_for_output = (0.0, 255 / 256)


class HardSigmoid(_Int8Only):
  """A piecewise linear gate, relu6(slope * x + offset) * max_value / 6.

  It is `attention.hard_sigmoid`, or without coefficients `jax.nn.hard_sigmoid`.
  The convolution before it takes slope and offset into its kernel and bias, and
  clips where its int8 output ends: the range [0, max_value] is known.
  """

  input_idx = (0,)

  def __call__(self, x: Array, *coefficients: float) -> Array:
    """Computes the gate.

    Args:
      x: [B, H, W, C].
      *coefficients: slope, offset, max_value; or none for 1, 3, 1.
    """
    slope, offset, max_value = coefficients or (1.0, 3.0, 1.0)
    if not self._inputs_have_activations((x,)):
      return self._call_original_op(x, *coefficients)
    rule, name = self._get_rule_and_op_id_fn(self._op_name)
    allows_fusion = qwix_compat.get_metadata(
      x, qwix_compat.ALLOWS_FUSION, False
    )
    if rule is None or rule.act_qtype is None or not allows_fusion:
      x = self._maybe_fake_quant(x, rule, name)
      return self._fake_quant_output(
        self._call_original_op(x, *coefficients), rule
      )
    self._reject_int16(metadata.get_rule(x, rule))
    out = self._call_fused(
      x, slope * max_value / 6, offset * max_value / 6, coefficients
    )
    qwix_compat.set_metadata(out, qwix_compat.ALLOWS_FUSION, False)
    qwix_compat.set_metadata(out, qwix_compat.FIXED_RANGE, (0.0, max_value))
    return self._fake_quant_output(out, rule)

  def _call_fused(
    self, x: Array, factor: float, shift: float, coefficients: Any
  ) -> Array:
    """Computes the gate behind a convolution: x * factor + shift, clipped."""
    del factor, shift
    return self._call_original_op(x, *coefficients)


class IntegerHardSigmoid(HardSigmoid):
  """A piecewise linear gate of integers."""

  def _call_fused(
    self, x: Array, factor: float, shift: float, coefficients: Any
  ) -> Array:
    out = super()._call_fused(x, factor, shift, coefficients)
    accumulator = metadata.get_accumulator(x)
    if accumulator is None:
      return out
    return metadata.set_scaled_accumulator(
      out,
      accumulator,
      jnp.float32(factor),
      jnp.full(x.shape[-1], shift, jnp.float32),
    )


class LoweredHardSigmoid(HardSigmoid):
  """A piecewise linear gate for the converter: only its linear part.

  The converter folds the product and sum into the convolution, and the int8
  range clips.
  """

  def _call_fused(
    self, x: Array, factor: float, shift: float, coefficients: Any
  ) -> Array:
    del coefficients
    per_channel = lambda n: jnp.full(x.shape[-1], n, jnp.float32)
    return x * per_channel(factor) + per_channel(shift)
