"""Layers by their definitions in NumPy, for comparison with modules."""

import jax
import numpy as np


def relu(x):
  return np.maximum(x, 0)


def correlate(x, kernel, rate=1):
  """Correlation with zero padding of half a kernel; x [B, H, W, C]."""
  rows, columns = kernel.shape[:2]
  height, width = x.shape[1:3]
  top, left = rows // 2 * rate, columns // 2 * rate
  x = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
  return sum(
    x[:, i * rate :, j * rate :][:, :height, :width] @ kernel[i, j]
    for i in range(rows)
    for j in range(columns)
  )


def grouped_correlate(x, kernel, rate=1):
  """`correlate` of each group of channels with its own kernels."""
  groups = x.shape[-1] // kernel.shape[2]
  parts = zip(
    np.split(x, groups, axis=-1),
    np.split(kernel, groups, axis=-1),
    strict=True,
  )
  return np.concatenate([correlate(a, k, rate) for a, k in parts], axis=-1)


def resize(x, size, aligned=False):
  """Linear interpolation between pixel centers, one axis after the other."""
  for axis, n in enumerate(size, start=1):
    m = x.shape[axis]
    if aligned:
      places = np.arange(n) * (m - 1) / max(n - 1, 1)
    else:
      places = (np.arange(n) + 0.5) * m / n - 0.5
    x = np.apply_along_axis(
      lambda row, m=m, places=places: np.interp(places, np.arange(m), row),
      axis,
      x,
    )
  return x


def mean_of_cells(x, rows, columns):
  """Means over cells whose bounds are rounded outwards."""
  height, width = x.shape[1:3]

  def bounds(n, count):
    return [
      (int(np.floor(i * n / count)), int(np.ceil((i + 1) * n / count)))
      for i in range(count)
    ]

  cells = [
    [x[:, a:b, c:d].mean((1, 2)) for c, d in bounds(width, columns)]
    for a, b in bounds(height, rows)
  ]
  return np.stack([np.stack(row, axis=1) for row in cells], axis=1)


class Layers:
  """The layers of a module by name, with its variables in float64."""

  def __init__(self, variables, epsilon):
    self._variables = jax.tree.map(np.float64, variables)
    self._epsilon = epsilon

  def _find(self, kind, path):
    found = self._variables[kind]
    for name in path.split('/'):
      found = found[name]
    return found

  def conv(self, x, path, rate=1):
    """A convolution with its bias, if it has one."""
    params = self._find('params', path)
    y = grouped_correlate(x, params['kernel'], rate)
    return y + params['bias'] if 'bias' in params else y

  def norm(self, x, path):
    """A BatchNorm with running statistics."""
    scale, stats = (self._find(k, path) for k in ('params', 'batch_stats'))
    scale, stats = scale['bn'], stats['bn']
    x = (x - stats['mean']) / np.sqrt(stats['var'] + self._epsilon)
    return x * scale['scale'] + scale['bias']

  def conv_norm(self, x, path, rate=1):
    return self.norm(self.conv(x, f'{path}/conv', rate), f'{path}/norm')

  def conv_bn(self, x, path, rate=1):
    return relu(self.conv_norm(x, path, rate))

  def separable(self, x, path, rate=1, between=relu):
    x = between(self.conv_norm(x, f'{path}/depthwise', rate))
    return self.conv_bn(x, f'{path}/pointwise')

  def transposed(self, x, path, start):
    """Output o is the sum of x[i] times tap o + start - 2 i of the kernel."""
    params = self._find('params', path)
    kernel = params['kernel']
    batch, height, width, _ = x.shape
    y = np.zeros((batch, 2 * height, 2 * width, kernel.shape[-1]))
    for i, j in np.ndindex(height, width):
      for a, b in np.ndindex(kernel.shape[:2]):
        row, column = 2 * i + a - start, 2 * j + b - start
        if 0 <= row < 2 * height and 0 <= column < 2 * width:
          y[:, row, column] += x[:, i, j] @ kernel[a, b]
    return y + params['bias']
