"""What moves values and computes none: their notes move with them.

Qwix's own operators and bookkeeping are private to it: its version is pinned.
"""

from typing import Any

import jax
import jax.numpy as jnp
from qwix._src import aux_data
from qwix._src.providers import odml_ops

from deeplab.quantization.simulator import metadata

Array = jax.Array

_LAYOUT_PRIMITIVES = frozenset(
  {
    *('reshape', 'transpose', 'slice', 'squeeze', 'split', 'rev', 'copy'),
    *('stop_gradient', 'broadcast_in_dim', 'convert_element_type'),
  }
)


class LayoutPrimitive(odml_ops.PrimitiveBindOp):
  """Primitives of JAX that have one input and keep its values."""

  def __call__(self, primitive: Any, *args: Any, **params: Any) -> Any:
    """Computes the primitive; arguments as of its `bind`."""
    out = super().__call__(primitive, *args, **params)
    if primitive.name not in _LAYOUT_PRIMITIVES or len(args) != 1:
      return out
    if primitive.name in ('slice', 'split'):  # no bias gets past those
      for x in jax.tree.leaves(out):
        aux_data.set(x, odml_ops.AuxDataKey.ALLOW_FUSION, False)
    grid = aux_data.get(args[0], metadata.QPARAMS, None)
    leaves = jax.tree.leaves((args, out))
    if grid is not None and all(x.ndim == 4 for x in leaves):
      for x in jax.tree.leaves(out):
        aux_data.set(x, metadata.QPARAMS, grid)
      return out
    total = metadata.get_accumulator(args[0])
    if total is None:
      return out
    if primitive.name == 'convert_element_type':
      return metadata.set_accumulator(
        out, total.value, total.scale, total.int64, total.clamp_max
      )
    whole = jnp.broadcast_to(total.scale, total.value.shape)
    bind = lambda x: jax.tree.leaves(primitive.bind(x, **params))
    parts = jax.tree.leaves(out), bind(total.value), bind(whole)
    for leaf, value, unit in zip(*parts, strict=True):
      metadata.set_accumulator(leaf, value, unit, total.int64, total.clamp_max)
    return out


class Pad(odml_ops.OnlyOutputOp):
  """Zeros around a map."""

  def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    x = metadata.get_fake_quantized(x)
    out = super().__call__(x, *args, **kwargs)
    metadata.propagate_rule(x, out)
    total = metadata.get_accumulator(x)
    if total is None:
      return out
    whole = jnp.broadcast_to(total.scale, total.value.shape)
    return metadata.set_accumulator(
      out,
      jnp.pad(total.value, *args, **kwargs),
      jnp.pad(whole, args[0], mode='edge'),
      total.int64,
      total.clamp_max,
    )


class Split(odml_ops.OnlyInputOp):
  """Parts of a map, which have one scale before anybody reads one of them."""

  def __call__(self, x: Array, *args: Any, **kwargs: Any) -> list[Array]:
    """Computes the operator; arguments as the original's."""
    if not self._inputs_have_activations((x,)):
      whole: list[Array] = self._call_original_op(x, *args, **kwargs)
      return whole
    rule, name = self._get_rule_and_op_id_fn(self._op_name)
    x = self._maybe_fake_quant(x, rule, name)
    parts: list[Array] = self._call_original_op(x, *args, **kwargs)
    rule = aux_data.get(x, odml_ops.AuxDataKey.FQ_RULE, rule)
    grid = aux_data.get(x, metadata.QPARAMS, None)
    for part in parts if rule and rule.act_qtype else ():
      aux_data.set(part, odml_ops.AuxDataKey.FQ_ARRAY, 'self')
      if grid is not None:
        aux_data.set(part, metadata.QPARAMS, grid)
    self._fake_quant_output(parts, rule)
    return parts


class Concatenate(odml_ops.Concatenate):
  """What is joined is rounded once, by the operators that made the parts.

  In 16 bits, or of parts that have other bits, it has a range of its own, which
  the parts are brought to before they are joined.

  Attributes:
    requantize: as of `operators.OneWidth`.
    concat_barrier: the function (array) to what is joined in 16 bits.
    record_range: the function (array, name of the range) that notes extremes.
  """

  requantize: Any = None
  concat_barrier: Any = None
  record_range: Any = None

  def __call__(self, arrays, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    key = odml_ops.AuxDataKey
    rule, name = self._get_rule_and_op_id_fn(self._op_name)
    fresh = [aux_data.get(x, key.FQ_ARRAY, None) is None for x in arrays]
    arrays = [metadata.get_fake_quantized(x) for x in arrays]
    own = [aux_data.get(x, key.FQ_RULE, None) for x in arrays]
    wide = metadata.has_int16_activations(rule)
    other = [
      r is not None and metadata.has_int16_activations(r) != wide for r in own
    ]
    if rule is None or rule.act_qtype is None or not (wide or any(other)):
      return self._concatenate(arrays, *args, **kwargs)
    seen = jnp.concatenate(arrays, *args, **kwargs)
    for i, x in enumerate(arrays):
      if other[i] and fresh[i]:
        x = self._maybe_fake_quant(x, own[i], f'{name}_input{i}')
      if other[i] or not fresh[i]:
        arrays[i] = self.requantize(x, rule, name)
      else:
        arrays[i] = self._maybe_fake_quant(x, rule, name)
    if wide:
      arrays = [self.concat_barrier(x) for x in arrays]
    out = self._concatenate(arrays, *args, **kwargs)
    out = self._maybe_fake_quant(out, rule, name)
    aux_data.set(out, key.FQ_ARRAY, 'self')
    self.record_range(seen, name)  # not what has been cut to the range
    return out

  def _concatenate(
    self, arrays: list[Array], *args: Any, **kwargs: Any
  ) -> Array:
    out: Array = super().__call__(arrays, *args, **kwargs)
    # Parts that are all on grids are on several; Qwix takes them for one.
    aux_data.set(out, odml_ops.AuxDataKey.FQ_ARRAY, None)
    aux_data.set(out, metadata.QPARAMS, None)
    aux_data.set(out, odml_ops.AuxDataKey.ALLOW_FUSION, False)
    sums = [metadata.get_accumulator(x) for x in arrays]
    known = [total for total in sums if total is not None]
    if len(known) < len(sums) or out.ndim != 4:
      return out
    values = jnp.concatenate([s.value for s in known], *args, **kwargs)
    units = [jnp.broadcast_to(s.scale, s.value.shape) for s in known]
    return metadata.set_accumulator(
      out, values, jnp.concatenate(units, *args, **kwargs)
    )
