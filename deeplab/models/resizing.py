"""The bilinear resize of all models, in one or in several stages.

It is linear and written as two matrix products. An exported file holds one
RESIZE_BILINEAR for it.

Devices limit the ratio of one RESIZE_BILINEAR (Ethos-U55: 2), so
`config.model.resize_ratio` limits it for a whole network: a larger resize is
split into as few equal stages as the limit allows. With half-pixel centers
several stages compute another function than one resize, so training and
evaluation run the same stages as the device. The sizes in between are a
geometric progression, rounded so that no stage exceeds the limit: x16 is four
stages of 2 under a limit of 2, and two of 4 under a limit of 4 or 8. With
aligned corners size - 1 is the progression (17, 33, 65, 129, 257), so that
every coarse pixel center is a center of each finer map, and the stages equal
one resize wherever the ratio of a stage is a whole number.
"""

from collections.abc import Sequence
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def _interpolation_matrix(n_in: int, n_out: int, align_corners: bool) -> Array:
  """Returns the [n_out, n_in] float32 matrix of linear interpolation.

  Output i reads position p / q of the input, both whole numbers, so each
  weight is rounded once. It is built from iota: an array constant would be
  hoisted to an operand of the composite below, and the converter rewrites only
  composites of one operand.
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
  """Resizes by two matrix products, one per axis."""
  rows = _interpolation_matrix(x.shape[1], size[0], align_corners)
  columns = _interpolation_matrix(x.shape[2], size[1], align_corners)
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
  # The resize is linear; composites have no differentiation rule of their own.
  (x,), (dx,) = primals, tangents
  return (
    _resize(x, size, align_corners),
    _resize_body(dx, size, align_corners),
  )


def _geometric_sizes(
  start: int, end: int, stages: int, offset: int, limit: int
) -> list[int]:
  """Returns the sizes after each stage, in equal ratios; `end` is the last."""
  if start == 1:  # a constant map is resized to any size at once
    return [end] * stages
  offset = offset if end > 1 else 0
  ratio = (end - offset) / (start - offset)
  sizes = [end]
  for i in range(stages - 1, 0, -1):
    size = round((start - offset) * ratio ** (i / stages)) + offset
    # From the end, so that rounding leaves no stage beyond the limit.
    smallest = -(-(sizes[0] - offset) // limit) + offset
    sizes.insert(0, max(size, smallest) if end > start else size)
  return sizes


def axis_ratios(
  start: Sequence[int], end: Sequence[int], align_corners: bool
) -> tuple[float, ...]:
  """Returns the growth ratio of each axis; 1 from a single, constant pixel.

  Args:
    start: (h, w).
    end: (H, W).
    align_corners: takes the ratio of size - 1 instead of size.
  """
  offset = int(align_corners)
  return tuple(
    (b - offset) / (a - offset) if a > 1 else 1.0
    for a, b in zip(start, end, strict=True)
  )


def stage_sizes(
  start: Sequence[int],
  end: Sequence[int],
  align_corners: bool,
  largest_ratio: int,
) -> list[tuple[int, int]]:
  """Returns the (H, W) after each stage of a resize.

  Args:
    start: (h, w) of the map.
    end: (H, W), the last entry of the result.
    align_corners: keeps whole ratios of size - 1 instead of size.
    largest_ratio: largest ratio of one stage; 0: no limit.
  """
  ratio = max(axis_ratios(start, end, align_corners))
  stages = 1
  if largest_ratio and ratio > largest_ratio:
    stages = math.ceil(round(math.log(ratio, largest_ratio), 9))
  heights, widths = (
    _geometric_sizes(a, b, stages, int(align_corners), largest_ratio)
    for a, b in zip(start, end, strict=True)
  )
  return list(zip(heights, widths, strict=True))


def resize(x: Array, size: Sequence[int], align_corners: bool = False) -> Array:
  """Bilinear resize of [B, h, w, C] to [B, H, W, C] in one stage.

  Two neighbors per axis are read whether the map grows or shrinks (no
  antialiasing), as in TensorFlow, PyTorch and TFLite.

  Args:
    x: [B, h, w, C].
    size: (H, W).
    align_corners: corner pixels keep their centers (True), or pixel areas
      keep their borders (False, half-pixel centers).
  """
  height, width = (int(n) for n in size)
  if x.shape[1:3] == (height, width):
    return x
  return _resize(x, (height, width), align_corners)


def resize_in_stages(
  x: Array, size: Sequence[int], align_corners: bool, largest_ratio: int
) -> Array:
  """Resizes [B, h, w, C] to [B, H, W, C] in stages of a limited ratio.

  Args:
    x: [B, h, w, C].
    size: (H, W).
    align_corners: corner pixels keep their centers, instead of pixel areas
      keeping their borders.
    largest_ratio: largest ratio of one stage; 0: no limit, one stage.
  """
  for stage in stage_sizes(x.shape[1:3], size, align_corners, largest_ratio):
    x = resize(x, stage, align_corners)
  return x
