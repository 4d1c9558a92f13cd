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
    grid = aux_data.get(args[0], operators.GRID, None)
    for x in jax.tree.leaves(out):
      if grid is not None and x.ndim == args[0].ndim:
        aux_data.set(x, operators.GRID, grid)
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
    out = super().__call__(x, *args, **kwargs)
    total = operators.sum_of(x)
    if total is None:
      return out
    whole = jnp.broadcast_to(total.unit, total.value.shape)
    return operators.note(
      out,
      jnp.pad(total.value, *args, **kwargs),
      jnp.pad(whole, *args, mode='edge'),
    )
