"""What moves values and computes none: their notes move with them.

Qwix's own operators and bookkeeping are private to it: its version is pinned.
"""

from typing import Any

import jax
import jax.numpy as jnp
from qwix._src import aux_data
from qwix._src.providers import odml_ops

from deeplab.quantization import operators

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
    grid = aux_data.get(args[0], operators.GRID, None)
    leaves = jax.tree.leaves((args, out))
    if grid is not None and all(x.ndim == 4 for x in leaves):
      for x in jax.tree.leaves(out):
        aux_data.set(x, operators.GRID, grid)
      return out
    total = operators.sum_of(args[0])
    if total is None:
      return out
    if primitive.name == 'convert_element_type':
      values, units = [total.value], [total.unit]
    else:
      whole = jnp.broadcast_to(total.unit, total.value.shape)
      values, units = (
        jax.tree.leaves(primitive.bind(x, **params))
        for x in (total.value, whole)
      )
    for x, value, unit in zip(jax.tree.leaves(out), values, units, strict=True):
      operators.note(x, value, unit)
    return out


class Pad(odml_ops.OnlyOutputOp):
  """Zeros around a map."""

  def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
    """Computes the operator; arguments as the original's."""
    x = operators.rounded(x)
    out = super().__call__(x, *args, **kwargs)
    total = operators.sum_of(x)
    if total is None:
      return out
    whole = jnp.broadcast_to(total.unit, total.value.shape)
    return operators.note(
      out,
      jnp.pad(total.value, *args, **kwargs),
      jnp.pad(whole, args[0], mode='edge'),
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
    grid = aux_data.get(x, operators.GRID, None)
    for part in parts if rule and rule.act_qtype else ():
      aux_data.set(part, odml_ops.AuxDataKey.FQ_ARRAY, 'self')
      if grid is not None:
        aux_data.set(part, operators.GRID, grid)
    self._fake_quant_output(parts, rule)
    return parts
