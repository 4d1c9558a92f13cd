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

_PRIMITIVES = frozenset(
  {
    *('reshape', 'transpose', 'slice', 'squeeze', 'split', 'rev', 'copy'),
    *('stop_gradient', 'broadcast_in_dim', 'convert_element_type'),
  }
)


class Bind(odml_ops.PrimitiveBindOp):
  """Primitives of JAX that have one input and keep its values."""

  def __call__(self, primitive: Any, *args: Any, **params: Any) -> Any:
    """Computes the primitive; arguments as of its `bind`."""
    out = super().__call__(primitive, *args, **params)
    if primitive.name not in _PRIMITIVES or len(args) != 1:
      return out
    if primitive.name in ('slice', 'split'):  # no bias gets past those
      for x in jax.tree.leaves(out):
        aux_data.set(x, odml_ops.AuxDataKey.ALLOW_FUSION, False)
    grid = aux_data.get(args[0], metadata.GRID, None)
    leaves = jax.tree.leaves((args, out))
    if grid is not None and all(x.ndim == 4 for x in leaves):
      for x in jax.tree.leaves(out):
        aux_data.set(x, metadata.GRID, grid)
      return out
    total = metadata.sum_of(args[0])
    if total is None:
      return out
    if primitive.name == 'convert_element_type':
      return metadata.note(out, total.value, total.unit, total.long, total.top)
    whole = jnp.broadcast_to(total.unit, total.value.shape)
    bind = lambda x: jax.tree.leaves(primitive.bind(x, **params))
    parts = jax.tree.leaves(out), bind(total.value), bind(whole)
    for leaf, value, unit in zip(*parts, strict=True):
      metadata.note(leaf, value, unit, total.long, total.top)
    return out


class Pad(odml_ops.OnlyOutputOp):
  """Zeros around a map."""

  def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    x = metadata.rounded(x)
    out = super().__call__(x, *args, **kwargs)
    metadata.keep_rule(x, out)
    total = metadata.sum_of(x)
    if total is None:
      return out
    whole = jnp.broadcast_to(total.unit, total.value.shape)
    return metadata.note(
      out,
      jnp.pad(total.value, *args, **kwargs),
      jnp.pad(whole, args[0], mode='edge'),
      total.long,
      total.top,
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
    grid = aux_data.get(x, metadata.GRID, None)
    for part in parts if rule and rule.act_qtype else ():
      aux_data.set(part, odml_ops.AuxDataKey.FQ_ARRAY, 'self')
      if grid is not None:
        aux_data.set(part, metadata.GRID, grid)
    self._fake_quant_output(parts, rule)
    return parts


class Concatenate(odml_ops.Concatenate):
  """What is joined is rounded once, by the operators that made the parts.

  In 16 bits, or of parts that have other bits, it has a range of its own, which
  the parts are brought to before they are joined.

  Attributes:
    change: as of `operators.OneWidth`.
    joint: the function (array) to what is joined in 16 bits.
    see: the function (array, name of the range) that notes extremes.
  """

  change: Any = None
  joint: Any = None
  see: Any = None

  def __call__(self, arrays, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    key = odml_ops.AuxDataKey
    rule, name = self._get_rule_and_op_id_fn(self._op_name)
    fresh = [aux_data.get(x, key.FQ_ARRAY, None) is None for x in arrays]
    arrays = [metadata.rounded(x) for x in arrays]
    own = [aux_data.get(x, key.FQ_RULE, None) for x in arrays]
    wide = metadata.is_wide(rule)
    other = [r is not None and metadata.is_wide(r) != wide for r in own]
    if rule is None or rule.act_qtype is None or not (wide or any(other)):
      return self._joined(arrays, *args, **kwargs)
    seen = jnp.concatenate(arrays, *args, **kwargs)
    for i, x in enumerate(arrays):
      if other[i] and fresh[i]:
        x = self._maybe_fake_quant(x, own[i], f'{name}_input{i}')
      if other[i] or not fresh[i]:
        arrays[i] = self.change(x, rule, name)
      else:
        arrays[i] = self._maybe_fake_quant(x, rule, name)
    if wide:
      arrays = [self.joint(x) for x in arrays]
    out = self._joined(arrays, *args, **kwargs)
    out = self._maybe_fake_quant(out, rule, name)
    aux_data.set(out, key.FQ_ARRAY, 'self')
    self.see(seen, name)  # not what has been cut to the range
    return out

  def _joined(self, arrays: list[Array], *args: Any, **kwargs: Any) -> Array:
    out: Array = super().__call__(arrays, *args, **kwargs)
    # Parts that are all on grids are on several; Qwix takes them for one.
    aux_data.set(out, odml_ops.AuxDataKey.FQ_ARRAY, None)
    aux_data.set(out, metadata.GRID, None)
    aux_data.set(out, odml_ops.AuxDataKey.ALLOW_FUSION, False)
    sums = [metadata.sum_of(x) for x in arrays]
    known = [total for total in sums if total is not None]
    if len(known) < len(sums) or out.ndim != 4:
      return out
    values = jnp.concatenate([s.value for s in known], *args, **kwargs)
    units = [jnp.broadcast_to(s.unit, s.value.shape) for s in known]
    return metadata.note(out, values, jnp.concatenate(units, *args, **kwargs))
