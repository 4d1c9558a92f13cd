"""The bilinear resize that all models share; there is no other in here.

It is linear and written as two matrix products. An exported file holds one
RESIZE_BILINEAR for it.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def _interpolation(n_in: int, n_out: int, align_corners: bool) -> Array:
  """Returns the [n_out, n_in] float32 matrix of linear interpolation.

  Output i reads position p / q of the input, both whole numbers, so each
  weight is rounded once. Built from iota on purpose: an array constant would
  be hoisted to an operand of the composite below, and the converter rewrites
  composites of one operand only.
  """
  rows = jnp.arange(n_out, dtype=jnp.int32)[:, None]
  columns = jnp.arange(n_in, dtype=jnp.int32)[None, :]
  if align_corners:
    q = max(n_out - 1, 1)
    p = rows * (n_in - 1)
  else:
    q = 2 * n_out
    p = (2 * rows + 1) * n_in - n_out
  p = jnp.clip(p, 0, (n_in - 1) * q)
  weights = jnp.maximum(q - jnp.abs(p - columns * q), 0)
  return weights.astype(jnp.float32) / q


def _resize_body(x: Array, size, align_corners: bool) -> Array:
  """Resizes by two matrix products, one an axis."""
  rows = _interpolation(x.shape[1], size[0], align_corners)
  columns = _interpolation(x.shape[2], size[1], align_corners)
  interpolate = functools.partial(jnp.einsum, precision='highest')
  x = interpolate('Hh,bhwc->bHwc', rows.astype(x.dtype), x)
  return interpolate('Ww,bhwc->bhWc', columns.astype(x.dtype), x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _resize(x: Array, size: tuple[int, int], align_corners: bool) -> Array:
  # TensorFlow's converter turns a composite of this name into one
  # RESIZE_BILINEAR; everything else inlines the body.
  return jax.lax.composite(
    lambda x, **_: _resize_body(x, size, align_corners),
    name='odml.upsample_bilinear2d',
  )(
    x,
    size=np.array(size, np.int64),
    align_corners=align_corners,
    is_nchw_op=False,
  )


@_resize.defjvp
def _resize_jvp(size, align_corners, primals, tangents):
  # Linear, and composites have no differentiation rule of their own.
  (x,), (dx,) = primals, tangents
  return (
    _resize(x, size, align_corners),
    _resize_body(dx, size, align_corners),
  )


def resize(x: Array, size: Sequence[int], align_corners: bool = False) -> Array:
  """Bilinear resize of [B, h, w, C] to [B, H, W, C]; see above.

  Two neighbours an axis are read whether the map grows or shrinks (no
  antialiasing), as in TensorFlow, PyTorch and TFLite.

  Args:
    x: [B, h, w, C].
    size: (H, W).
    align_corners: corner pixels keep their centres (True), or pixel areas
      keep their borders (False, half-pixel centres).
  """
  height, width = (int(n) for n in size)
  if x.shape[1:3] == (height, width):
    return x
  return _resize(x, (height, width), align_corners)
