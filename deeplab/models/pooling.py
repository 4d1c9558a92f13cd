"""Average and max pooling, with a cheap gradient and a plain exported graph.

A window sum exports as one AVERAGE_POOL_2D, but its gradient costs the square
of the window. So training computes means of slices, and evaluation uses windows
wherever the cells are uniform windows: both compute the same function.
"""

from collections.abc import Sequence
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers

Array = jax.Array


def _cell_bounds(n: int, count: int) -> list[tuple[int, int]]:
  """Returns (start, end) of each of `count` parts of n rows."""
  return [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]


def _uniform_window(cells: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
  """Returns the (size, stride) of evenly spaced cells of one size, or None."""
  size = cells[0][1]
  stride = cells[1][0] if len(cells) > 1 else size
  even = [(i * stride, i * stride + size) for i in range(len(cells))]
  # With fewer rows than cells, neighboring cells are the same row, which no
  # stride expresses.
  return (size, stride) if stride and list(cells) == even else None


def average_pool(x: Array, size: Sequence[int], stride: Sequence[int]) -> Array:
  """Averages windows that lie entirely inside the map.

  Args:
    x: [B, H, W, C].
    size: (h, w) of a window; at most (H, W).
    stride: (rows, columns) from one window to the next.

  Returns:
    [B, (H - h) // rows + 1, (W - w) // columns + 1, C] in x's dtype.
  """
  # bfloat16 has too few bits for the sum.
  y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  sums = nn.pool(y, 0.0, jax.lax.add, tuple(size), tuple(stride), 'VALID')
  return (sums / float(math.prod(size))).astype(x.dtype)


def adaptive_average_pool(
  x: Array, count: int | Sequence[int], train: bool
) -> Array:
  """Averages a map into cells, as PyTorch's adaptive average pooling does.

  Cell i of `count` covers the rows from floor(i * H / count) to
  ceil((i + 1) * H / count): neighbors share a row where `count` does not
  divide H.

  Args:
    x: [B, H, W, C].
    count: cells per axis, or (rows, columns) of them; 1 is the mean over the
      map.
    train: computes the form whose gradient is cheap.

  Returns:
    [B, rows, columns, C] in x's dtype.
  """
  counts = layers.as_pair(count)
  cells = [
    _cell_bounds(n, c) for n, c in zip(x.shape[1:3], counts, strict=True)
  ]
  rows, columns = (_uniform_window(cell) for cell in cells)
  if not train and rows and columns:
    return average_pool(x, (rows[0], columns[0]), (rows[1], columns[1]))
  y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  if counts == (1, 1):
    return jnp.mean(y, axis=(1, 2), keepdims=True).astype(x.dtype)
  for axis, parts in enumerate(cells, start=1):
    size, rest = divmod(x.shape[axis], len(parts))
    if train and rest == 0:
      split = (*y.shape[:axis], len(parts), size, *y.shape[axis + 1 :])
      y = y.reshape(split).mean(axis + 1)
      continue
    means = [
      jax.lax.slice_in_dim(y, *part, axis=axis).mean(axis, keepdims=True)
      for part in parts
    ]
    y = jnp.concatenate(means, axis=axis)
  return y.astype(x.dtype)


def max_pool(x: Array, padding: layers.Padding) -> Array:
  """Returns the maximum over 3x3 pixels, at stride 2.

  Args:
    x: [B, H, W, C], not negative, as after a ReLU: then padding by zeros equals
      padding by the lowest number, which a quantized graph cannot hold.
    padding: one of `layers.Padding`.

  Returns:
    [B, ceil(H / 2), ceil(W / 2), C].
  """
  pads = layers.explicit_padding(padding, x.shape[1:3], 3, 2, 1)
  if pads == layers.explicit_padding('same', x.shape[1:3], 3, 2, 1):
    return nn.max_pool(x, (3, 3), (2, 2), 'SAME')
  return nn.max_pool(jnp.pad(x, ((0, 0), *pads, (0, 0))), (3, 3), (2, 2))


def check_batch_size(batch: int, options: layers.Options) -> None:
  """Raises ValueError where BatchNorm would see one value per channel.

  Heads that normalize the mean over a whole map call it in training.

  Args:
    batch: images per device.
    options: compute options of the BatchNorm.
  """
  axis = options.axis_name
  devices = 1 if axis is None else jax.lax.axis_size(axis)
  if batch * devices == 1 and not options.frozen_norms:
    raise ValueError(
      'image pooling leaves one value per channel of an image, and BatchNorm '
      'cannot train on a batch of 1: raise batch_size to 2 or more per '
      'device, train on several devices, over which BatchNorm averages, or '
      'set model.frozen_norms=True'
    )
