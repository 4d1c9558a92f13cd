"""Convolutions written for XLA's CPU back end, and its sums over pixels.

`depthwise_conv` and `pointwise_conv` compute the same as
`lax.conv_general_dilated`, in forms that the CPU back end runs several times
faster in training. Accelerators, exporters and quantizers do not use them.

The CPU back end is fast at one loop over an elementwise expression with the
channels innermost: it vectorises the loop, runs it on all cores, and nine
slices of a padded map cost little more than a copy. It is slow at a sum over
all pixels with arithmetic inside: it walks through memory one channel at a
time, 7 to 40 times slower. So gradients are written by hand here, and every sum
over pixels goes through `sum_over_pixels`.
"""

from collections.abc import Callable
from collections.abc import Iterable
import functools
import operator

import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array
Pads = tuple[tuple[int, int], tuple[int, int]]
# Rows (start, stop) and columns (start, stop) of a map.
Region = tuple[tuple[int, int], tuple[int, int]]

# Terms of one elementwise sum in `sum_over_pixels`. 4, 8 and 16 are about
# equally fast, and fewer compile faster; with 32 XLA fuses the second stage
# into the first, which is 5 to 15 times slower.
_TERMS_PER_SUM = 4
# XLA computes sums of at least this many elements by a library, and fuses
# smaller ones into the producer of their operand, which must be avoided.
_MIN_LIBRARY_SUM_SIZE = 32_768


def _largest_divisor(n: int, limit: int) -> int:
  """Returns the largest divisor of n up to limit."""
  return max(d for d in range(1, min(n, limit) + 1) if n % d == 0)


def _add_terms(terms: Iterable[Array]) -> Array:
  return functools.reduce(operator.add, terms)


def sum_over_pixels(function: Callable[..., Array], *arrays: Array) -> Array:
  """Sums `function(*arrays)` over all pixels, per channel.

  The maps are cut into a few blocks whose values are added elementwise, so that
  `function` is computed in a vectorized loop; the remaining sum is small.

  Args:
    function: elementwise function of as many arguments as there are arrays.
    *arrays: [B, H, W, C] each.

  Returns:
    [C].
  """
  batch, height = arrays[0].shape[:2]
  images = _largest_divisor(batch, _TERMS_PER_SUM)
  bands = _largest_divisor(height, _TERMS_PER_SUM // images)
  batch, height = batch // images, height // bands
  total = _add_terms(
    function(
      *(
        x[i * batch : (i + 1) * batch, j * height : (j + 1) * height]
        for x in arrays
      )
    )
    for i in range(images)
    for j in range(bands)
  )
  total = total.reshape(-1, total.shape[-1])
  while total.shape[0] > 1 and total.size < _MIN_LIBRARY_SUM_SIZE:
    parts = _largest_divisor(total.shape[0], _TERMS_PER_SUM)
    if parts == 1:
      break
    total = _add_terms(jnp.split(total, parts))
  return total.sum(0)


def _pad(x: Array, pads: Pads) -> Array:
  """Pads rows and columns by zeros, or crops them where pads are negative."""
  zero = jnp.zeros((), x.dtype)
  return lax.pad(x, zero, ((0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)))


def _slice_window(x: Array, region: Region, stride: int = 1) -> Array:
  (top, bottom), (left, right) = region
  return x[:, top:bottom:stride, left:right:stride]


def _multiply_float32(x: Array, y: Array) -> Array:
  return x.astype(jnp.float32) * y.astype(jnp.float32)


def _out_size(size, shape, stride: int, rate: int, pads: Pads):
  return [
    (n + sum(p) - (k - 1) * rate - 1) // stride + 1
    for n, k, p in zip(size, shape, pads, strict=True)
  ]


# Dense case: the map is padded once, and every tap reads a full-size window.


def _iterate_tap_windows(padded: Array, shape, stride: int, rate: int, size):
  """Yields (i, j, window [B, *size, C]) for the taps of a kernel."""
  spans = [(n - 1) * stride + 1 for n in size]
  for i in range(shape[0]):
    for j in range(shape[1]):
      rows, columns = (
        (tap * rate, tap * rate + span)
        for tap, span in zip((i, j), spans, strict=True)
      )
      yield i, j, _slice_window(padded, (rows, columns), stride)


def _dense_taps_conv(
  padded: Array, kernel: Array, stride: int, rate: int, size
) -> Array:
  windows = _iterate_tap_windows(padded, kernel.shape[:2], stride, rate, size)
  return _add_terms(
    _multiply_float32(x, kernel[i : i + 1, j : j + 1]) for i, j, x in windows
  )


def _phase_taps(phase: int, k: int, stride: int, rate: int, low: int):
  """Returns the [(tap, offset)] of the output rows that one input row feeds.

  Through `tap`, input row `stride * p + phase` feeds output row `p + offset`.
  """
  reach = [(tap, phase + low - tap * rate) for tap in range(k)]
  return [(tap, n // stride) for tap, n in reach if n % stride == 0]


def _dense_input_gradient(
  g: Array, kernel: Array, stride, rate, pads, size
) -> Array:
  """Computes the gradient of the input, one phase of the stride at a time.

  Inserting zeros between the rows of g instead would take stride ** 2 times the
  work.
  """
  phases = [
    [_phase_taps(p, k, stride, rate, low) for p in range(stride)]
    for k, (low, _) in zip(kernel.shape[:2], pads, strict=True)
  ]
  count = [-(-n // stride) for n in size]
  lows, padding = [], []
  for axis in range(2):
    offsets = [offset for taps in phases[axis] for _, offset in taps]
    lows.append(-min(offsets))
    end = count[axis] + max(offsets) - g.shape[1 + axis]
    padding.append((lows[axis], end))
  g = _pad(g, (padding[0], padding[1]))
  rows = []
  for vertical in phases[0]:
    columns = []
    for horizontal in phases[1]:
      total = jnp.zeros((g.shape[0], *count, g.shape[3]), jnp.float32)
      for i, y in vertical:
        for j, x in horizontal:
          top, left = y + lows[0], x + lows[1]
          region = (top, top + count[0]), (left, left + count[1])
          total = total + _multiply_float32(
            _slice_window(g, region), kernel[i : i + 1, j : j + 1]
          )
      columns.append(total)
    rows.append(jnp.stack(columns, 3))
  dx = jnp.stack(rows, 2)
  dx = dx.reshape(g.shape[0], count[0] * stride, count[1] * stride, -1)
  return dx[:, : size[0], : size[1]]


# Sparse case: at a large rate most taps read only padding (at rate 12 on a
# 16 x 16 map the padded map is six times as large), so the few products that
# matter are added to the regions that they reach.


def _is_sparse(size, stride: int, rate: int) -> bool:
  return stride == 1 and 4 * rate > min(size)


def _tap_regions(size, shape, rate: int, pads: Pads):
  """Returns (i, j, input region, output region) of each tap with an effect."""
  out = _out_size(size, shape, 1, rate, pads)
  pairs = []
  for i in range(shape[0]):
    for j in range(shape[1]):
      source, target = [], []
      for axis, tap in enumerate((i, j)):
        shift = tap * rate - pads[axis][0]
        start = max(0, -shift)
        stop = min(out[axis], size[axis] - shift)
        target.append((start, stop))
        source.append((start + shift, stop + shift))
      if all(start < stop for start, stop in target):
        pairs.append((i, j, tuple(source), tuple(target)))
  return pairs


def _sparse_taps_conv(x: Array, kernel: Array, pairs, size) -> Array:
  total = jnp.zeros((x.shape[0], *size, x.shape[3]), jnp.float32)
  whole = tuple((0, n) for n in size)
  for i, j, source, target in sorted(pairs, key=lambda p: p[3] != whole):
    term = _multiply_float32(
      _slice_window(x, source), kernel[i : i + 1, j : j + 1]
    )
    term = term + _slice_window(total, target)
    start = (0, target[0][0], target[1][0], 0)
    total = lax.dynamic_update_slice(total, term, start)
  return total


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise_conv(
  x: Array, kernel: Array, stride: int, rate: int, pads: Pads
) -> Array:
  """Depthwise convolution as a sum of shifted multiplies.

  Products are accumulated in float32.

  Args:
    x: [B, H, W, C].
    kernel: [h, w, 1, C].
    stride: stride.
    rate: atrous rate.
    pads: ((top, bottom), (left, right)).

  Returns:
    [B, H', W', C].
  """
  return _depthwise_forward(x, kernel, stride, rate, pads)[0]


def _depthwise_forward(x, kernel, stride, rate, pads):
  size, shape = x.shape[1:3], kernel.shape[:2]
  out = _out_size(size, shape, stride, rate, pads)
  if _is_sparse(size, stride, rate):
    y = _sparse_taps_conv(x, kernel, _tap_regions(size, shape, rate, pads), out)
    return y.astype(x.dtype), (x, kernel, size)
  padded = _pad(x, pads)
  y = _dense_taps_conv(padded, kernel, stride, rate, out)
  return y.astype(x.dtype), (padded, kernel, size)


def _depthwise_backward(stride, rate, pads, residuals, g):
  x, kernel, size = residuals
  shape = kernel.shape[:2]
  if _is_sparse(size, stride, rate):
    pairs = _tap_regions(size, shape, rate, pads)
    swapped = [(i, j, target, source) for i, j, source, target in pairs]
    dx = _sparse_taps_conv(g, kernel, swapped, size)
    sums = {
      (i, j): sum_over_pixels(
        _multiply_float32, _slice_window(x, source), _slice_window(g, target)
      )
      for i, j, source, target in pairs
    }
  else:
    dx = _dense_input_gradient(g, kernel, stride, rate, pads, size)
    sums = {
      (i, j): sum_over_pixels(_multiply_float32, window, g)
      for i, j, window in _iterate_tap_windows(
        x, shape, stride, rate, g.shape[1:3]
      )
    }
  zero = jnp.zeros(x.shape[3:], jnp.float32)
  rows = [
    jnp.stack([sums.get((i, j), zero) for j in range(shape[1])])
    for i in range(shape[0])
  ]
  dkernel = jnp.stack(rows)[:, :, None]
  return dx.astype(g.dtype), dkernel.astype(kernel.dtype)


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


def pointwise_conv(x: Array, kernel: Array) -> Array:
  """1x1 convolution as one matrix product.

  The pixels are flattened to one axis: the gradient of a product that contracts
  three axes would make XLA transpose the whole map.

  Args:
    x: [B, H, W, Cin].
    kernel: [1, 1, Cin, Cout].

  Returns:
    [B, H, W, Cout].
  """
  y = x.reshape(-1, x.shape[3]) @ kernel[0, 0]
  return y.reshape(*x.shape[:3], -1)
