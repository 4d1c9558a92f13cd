"""Activations and gates in int8, as TFLite's kernels compute them.

Qwix's own operators and bookkeeping are private to it: its version is pinned.
"""

from typing import Any

import jax
import jax.numpy as jnp
from qwix._src import aux_data
from qwix._src.providers import odml_ops
from qwix._src.utils import flax_util

from deeplab.quantization import fixed_point
from deeplab.quantization.simulator import metadata
from deeplab.quantization.simulator import ops

Array = jax.Array


class _Int8Only(ops.SameBitWidth, odml_ops.QuantizedOp):
  """What has no kernel of 16 bits."""

  def _maybe_fake_quant(self, array, rule, quant_stat_name):
    self._reject_int16(rule)
    return super()._maybe_fake_quant(array, rule, quant_stat_name)

  def _reject_int16(self, rule: Any) -> None:
    """Refuses a rule of 16 bits.

    Raises:
      ValueError: the layer is named.
    """
    if metadata.has_int16_activations(rule):
      path = '/'.join(flax_util.get_current_module_path())
      raise ValueError(
        f'{self._op_name} in {path} has no form with 16-bit activations: leave '
        'it out of wide_layers (config.quantization.wide_layers or '
        '--wide_layers)'
      )


class HardSwish(_Int8Only):
  """Hard-swish: HARD_SWISH, with scales of its own for in and out."""

  input_idx = (0,)


class IntegerHardSwish(HardSwish):
  """Hard-swish of whole numbers."""

  def _call_original_op(self, x: Array, *args: Any, **kwargs: Any) -> Array:
    out = super()._call_original_op(x, *args, **kwargs)
    grid = aux_data.get(x, metadata.QPARAMS, None)
    if grid is not None:
      whole = jnp.round(
        fixed_point.to_float64(x) / fixed_point.to_float64(grid.scale)
      )
      metadata.set_output_kernel(
        out, lambda scale: fixed_point.hard_swish(whole, grid.scale, scale)
      )
    return out


class Sigmoid(_Int8Only):
  """LOGISTIC, whose result has scale 1 / 256 and zero point -128."""

  input_idx = (0,)
  fixed_range_for_output = (0.0, 255 / 256)


class HardSigmoid(_Int8Only):
  """A piecewise linear gate, `attention.ramp` or `jax.nn.hard_sigmoid`.

  The convolution before it computes its slope and offset, and saturates at its
  ends: those of its int8 numbers.
  """

  input_idx = (0,)

  def __call__(
    self, x: Array, slope: float = 1.0, offset: float = 3.0, top: float = 1.0
  ) -> Array:
    """Computes the operator; arguments as the original's."""
    given = (slope, offset, top)[: 0 if self._op_name == 'hard_sigmoid' else 3]
    if not self._inputs_have_activations((x,)):
      return self._call_original_op(x, *given)
    rule, name = self._get_rule_and_op_id_fn(self._op_name)
    fused = aux_data.get(x, odml_ops.AuxDataKey.ALLOW_FUSION, False)
    if rule is None or rule.act_qtype is None or not fused:
      x = self._maybe_fake_quant(x, rule, name)
      return self._fake_quant_output(self._call_original_op(x, *given), rule)
    self._reject_int16(aux_data.get(x, odml_ops.AuxDataKey.FQ_RULE, rule))
    out = self._apply_fused(x, slope * top / 6, offset * top / 6, given)
    aux_data.set(out, odml_ops.AuxDataKey.ALLOW_FUSION, False)
    aux_data.set(out, odml_ops.AuxDataKey.FIXED_RANGE, (0.0, top))
    return self._fake_quant_output(out, rule)

  def _apply_fused(
    self, x: Array, factor: float, shift: float, given: Any
  ) -> Array:
    del factor, shift
    return self._call_original_op(x, *given)


class IntegerHardSigmoid(HardSigmoid):
  """A gate of whole numbers."""

  def _apply_fused(
    self, x: Array, factor: float, shift: float, given: Any
  ) -> Array:
    out = super()._apply_fused(x, factor, shift, given)
    total = metadata.get_accumulator(x)
    if total is None:
      return out
    return metadata.set_scaled_accumulator(
      out, total, jnp.float32(factor), jnp.full(x.shape[-1], shift, jnp.float32)
    )


class LoweredHardSigmoid(HardSigmoid):
  """A gate as the convolution before it computes it."""

  def _apply_fused(
    self, x: Array, factor: float, shift: float, given: Any
  ) -> Array:
    del given
    vector = lambda n: jnp.full(x.shape[-1], n, jnp.float32)
    return x * vector(factor) + vector(shift)
