"""Layout ops: reshape, slice, pad, split, concatenate.

They leave values unchanged, so that the input's quantization metadata is copied
to the output.
"""

from typing import Any

import jax
import jax.numpy as jnp

from deeplab.quantization.simulator import metadata
from deeplab.quantization.simulator import qwix_compat

Array = jax.Array

_LAYOUT_PRIMITIVES = frozenset(
  {
    *('reshape', 'transpose', 'slice', 'squeeze', 'split', 'rev', 'copy'),
    *('stop_gradient', 'broadcast_in_dim', 'convert_element_type'),
  }
)


class LayoutPrimitive(qwix_compat.PrimitiveBind):
  """Primitives of JAX that have one input and keep its values."""

  def __call__(self, primitive: Any, *args: Any, **params: Any) -> Any:
    """Binds the primitive; arguments as for `Primitive.bind`."""
    out = super().__call__(primitive, *args, **params)
    if primitive.name not in _LAYOUT_PRIMITIVES or len(args) != 1:
      return out
    if primitive.name in ('slice', 'split'):  # a bias behind cannot be fused
      for x in jax.tree.leaves(out):
        qwix_compat.set_metadata(x, qwix_compat.ALLOWS_FUSION, False)
    qparams = metadata.get_qparams(args[0])
    leaves = jax.tree.leaves((args, out))
    if qparams is not None and all(x.ndim == 4 for x in leaves):
      for x in jax.tree.leaves(out):
        qwix_compat.set_metadata(x, metadata.QPARAMS, qparams)
      return out
    accumulator = metadata.get_accumulator(args[0])
    if accumulator is None:
      return out
    if primitive.name == 'convert_element_type':
      return metadata.set_accumulator(
        out,
        accumulator.value,
        accumulator.scale,
        accumulator.int64,
        accumulator.clamp_max,
      )
    # Value and scale of the accumulator go the way of the array.
    scales = jnp.broadcast_to(accumulator.scale, accumulator.value.shape)
    bind = lambda x: jax.tree.leaves(primitive.bind(x, **params))
    for leaf, value, scale in zip(
      jax.tree.leaves(out), bind(accumulator.value), bind(scales), strict=True
    ):
      metadata.set_accumulator(
        leaf, value, scale, accumulator.int64, accumulator.clamp_max
      )
    return out


class Pad(qwix_compat.OnlyOutputOp):
  """Zeros around a map."""

  def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
    """Pads x; arguments as for `jnp.pad`."""
    x = metadata.get_fake_quantized(x)
    out = super().__call__(x, *args, **kwargs)
    metadata.propagate_rule(x, out)
    accumulator = metadata.get_accumulator(x)
    if accumulator is None:
      return out
    scales = jnp.broadcast_to(accumulator.scale, accumulator.value.shape)
    return metadata.set_accumulator(
      out,
      jnp.pad(accumulator.value, *args, **kwargs),
      jnp.pad(scales, args[0], mode='edge'),
      accumulator.int64,
      accumulator.clamp_max,
    )


class Split(qwix_compat.OnlyInputOp):
  """Splits a map; it is rounded before, so that all parts have its scale."""

  def __call__(self, x: Array, *args: Any, **kwargs: Any) -> list[Array]:
    """Splits x; arguments as for `jnp.split`."""
    if not self._inputs_have_activations((x,)):
      constants: list[Array] = self._call_original_op(x, *args, **kwargs)
      return constants
    rule, name = self._get_rule_and_op_id_fn(self._op_name)
    x = self._maybe_fake_quant(x, rule, name)
    parts: list[Array] = self._call_original_op(x, *args, **kwargs)
    rule = metadata.get_rule(x, rule)
    qparams = metadata.get_qparams(x)
    for part in parts if rule and rule.act_qtype else ():
      qwix_compat.set_metadata(part, qwix_compat.FAKE_QUANTIZED, 'self')
      if qparams is not None:
        qwix_compat.set_metadata(part, metadata.QPARAMS, qparams)
    self._fake_quant_output(parts, rule)
    return parts


class Concatenate(qwix_compat.Concatenate):
  """Concatenates maps; each is rounded once, by the operator that made it.

  With 16-bit activations, or if a part has another bit width, the result has a
  range of its own: parts are requantized to it before they are joined.

  Attributes:
    requantize: the function (rounded array, rule, name of the range) -> array
      of that rule's width, `ProviderBase.requantize`.
    concat_barrier: the function (array) -> array for parts of 16 bits,
      `ProviderBase.concat_barrier`.
    record_range: the function (array, name of the range) that observes minimum
      and maximum, `ProviderBase.record_range`.
  """

  requantize: Any = None
  concat_barrier: Any = None
  record_range: Any = None

  def __call__(self, arrays, *args: Any, **kwargs: Any) -> Array:
    """Concatenates arrays; arguments as for `jnp.concatenate`."""
    rule, name = self._get_rule_and_op_id_fn(self._op_name)
    is_fresh = [
      qwix_compat.get_metadata(x, qwix_compat.FAKE_QUANTIZED, None) is None
      for x in arrays
    ]
    arrays = [metadata.get_fake_quantized(x) for x in arrays]
    part_rules = [metadata.get_rule(x) for x in arrays]
    int16 = metadata.has_int16_activations(rule)
    other_width = [
      r is not None and metadata.has_int16_activations(r) != int16
      for r in part_rules
    ]
    if (
      rule is None or rule.act_qtype is None or not (int16 or any(other_width))
    ):
      return self._concatenate(arrays, *args, **kwargs)
    observed = jnp.concatenate(arrays, *args, **kwargs)
    for i, x in enumerate(arrays):
      if other_width[i] and is_fresh[i]:
        x = self._maybe_fake_quant(x, part_rules[i], f'{name}_input{i}')
      if other_width[i] or not is_fresh[i]:
        arrays[i] = self.requantize(x, rule, name)
      else:
        arrays[i] = self._maybe_fake_quant(x, rule, name)
    if int16:
      arrays = [self.concat_barrier(x) for x in arrays]
    out = self._concatenate(arrays, *args, **kwargs)
    out = self._maybe_fake_quant(out, rule, name)
    qwix_compat.set_metadata(out, qwix_compat.FAKE_QUANTIZED, 'self')
    self.record_range(observed, name)  # before it was clipped to the range
    return out

  def _concatenate(
    self, arrays: list[Array], *args: Any, **kwargs: Any
  ) -> Array:
    out: Array = super().__call__(arrays, *args, **kwargs)
    # Rounded parts may have several scales; Qwix takes them for one.
    qwix_compat.set_metadata(out, qwix_compat.FAKE_QUANTIZED, None)
    qwix_compat.set_metadata(out, metadata.QPARAMS, None)
    qwix_compat.set_metadata(out, qwix_compat.ALLOWS_FUSION, False)
    accumulators = [
      accumulator
      for x in arrays
      if (accumulator := metadata.get_accumulator(x)) is not None
    ]
    if len(accumulators) < len(arrays) or out.ndim != 4:
      return out
    values = jnp.concatenate([a.value for a in accumulators], *args, **kwargs)
    scales = [jnp.broadcast_to(a.scale, a.value.shape) for a in accumulators]
    return metadata.set_accumulator(
      out, values, jnp.concatenate(scales, *args, **kwargs)
    )
