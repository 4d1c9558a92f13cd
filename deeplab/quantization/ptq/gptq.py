"""Kernels rounded so that what convolutions compute changes least.

The nearest step is not the best one: an edge filter whose weights no longer
add up to 0 answers to every flat area. Here the weights of a kernel are rounded
one after the other, and those to come make up for the error so far, as far as
the inputs of the convolution let them: GPTQ (arXiv:2210.17323), on the second
moments of what it reads. What is left of the error in the mean goes into the
biases (arXiv:1906.04721, section 4.2): errors of many layers add up there, and
a class grows at another's cost.
"""

from collections.abc import Sequence
import re
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab.data import image_format
from deeplab.models import layers
from deeplab.quantization import qparams
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.ptq import batch_norm_folding

Array = jax.Array
PyTree = Any
Path = tuple[str, ...]

ROUNDING_METHODS = ('nearest', 'least_squares')
# Wider kernels are rounded in parts of so many inputs at most: time grows with
# the third power.
_MAX_BLOCK_INPUTS = 2304
# Share of the mean second moment that is added to all: what calibration images
# never show may yet happen.
_DAMPING = 0.01
# Means over so many images are as good as over all; fewer of large ones, since
# they are computed at once.
_BIAS_IMAGES = 16
_BIAS_PIXELS = 16 * 513**2


def _num_input_blocks(channels: int, taps: int) -> int:
  """Returns into how many equal parts the inputs of a kernel are split."""
  return next(
    parts
    for parts in range(1, channels + 1)
    if channels % parts == 0
    and (channels // parts * taps <= _MAX_BLOCK_INPUTS or parts == channels)
  )


def _extract_patches(conv: layers.Conv, x: Array) -> Array:
  """Returns what each output pixel of a convolution reads, [N, C, taps]."""
  size = layers.as_pair(conv.kernel)
  pads = layers.explicit_padding(
    conv.padding, x.shape[1:3], size, conv.stride, conv.rate
  )
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  places = [
    [
      slice(at * conv.rate, n - (k - 1 - at) * conv.rate, conv.stride)
      for at in range(k)
    ]
    for n, k in zip(x.shape[1:3], size, strict=True)
  ]
  taps = [x[:, rows, columns] for rows in places[0] for columns in places[1]]
  return jnp.stack(taps, -1).reshape(-1, x.shape[-1], len(taps))


def measure_second_moments(
  model: Any,
  variables: PyTree,
  images: Sequence[np.ndarray],
  *,
  mean: Sequence[float],
  std: Sequence[float],
) -> dict[Path, np.ndarray]:
  """Returns the second moments of what each convolution reads.

  Args:
    model: of normalised images; in float32.
    variables: {'params', 'batch_stats'}.
    images: [H, W, C] each, values as they are, of one size.
    mean: a value a channel.
    std: likewise.

  Returns:
    [groups * parts, n, n] float64 sums, by the convolution's path; the n inputs
    of a part are its channels, and of each the kernel's rows and columns.
  """

  def look(variables: PyTree, x: Array) -> dict[Path, Array]:
    found: dict[Path, Array] = {}

    def watch(call, args, kwargs, context):
      conv = context.module
      if context.method_name == '__call__' and isinstance(conv, layers.Conv):
        read = _extract_patches(conv, args[0])
        count, channels, taps = read.shape
        parts = conv.groups * _num_input_blocks(channels // conv.groups, taps)
        read = read.reshape(count, parts, -1)
        sums = jnp.einsum('npi,npj->pij', read, read)
        # One that is called twice has two inputs.
        found[conv.path] = found.get(conv.path, 0) + sums
      return call(*args, **kwargs)

    with nn.intercept_methods(watch):
      model.apply(variables, x)
    return found

  shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  variables = {k: variables[k] for k in ('params', 'batch_stats')}
  see = jax.jit(look)
  total: dict[Path, np.ndarray] = {}
  for image in images:
    x = image_format.normalize_image(
      np.asarray(image, np.float32)[None], shift, scale
    )
    for path, sums in see(variables, x).items():
      total[path] = total.get(path, 0) + np.asarray(sums, np.float64)
  return total


def _round_gptq(
  weights: np.ndarray, kept: np.ndarray, moments: np.ndarray
) -> np.ndarray:
  """Returns whole steps, [P, n, M] float64.

  Args:
    weights: [P, n, M], in steps.
    kept: [P, n, M], those that go to the nearest.
    moments: [P, n, n].
  """
  width = weights.shape[1]
  own = np.diagonal(moments, axis1=1, axis2=2)
  # What is read most is rounded first: the others can make up for it.
  order = np.argsort(-own, axis=1, kind='stable')
  rows = order[:, :, None]
  moments = np.take_along_axis(moments, rows, 1)
  moments = np.take_along_axis(moments, order[:, None], 2)
  damping = _DAMPING * own.mean(1) + 1e-12
  moments = moments + damping[:, None, None] * np.eye(width)
  left = np.take_along_axis(weights, rows, 1)
  kept = np.take_along_axis(kept, rows, 1)
  nearest = np.rint(left)
  upper = np.linalg.cholesky(np.linalg.inv(moments)).swapaxes(1, 2)
  steps = np.empty_like(left)
  for i in range(width):
    rounded = np.clip(np.rint(left[:, i]), -127, 127)
    steps[:, i] = np.where(kept[:, i], nearest[:, i], rounded)
    error = (left[:, i] - steps[:, i]) / upper[:, i, i, None]
    left[:, i + 1 :] -= upper[:, i, i + 1 :, None] * error[:, None]
  return np.take_along_axis(steps, np.argsort(order, axis=1)[:, :, None], 1)


def _round_kernel(
  kernel: np.ndarray,
  moments: np.ndarray,
  rules: rules_lib.Rules,
  int16_activations: bool = False,
) -> np.ndarray:
  """Returns a kernel [h, w, in, out] of whole steps of its own scales."""
  axes = (0, 1, 2) if rules.weights == 'channel' else None
  size = np.abs(kernel)
  largest = size.max(axes, keepdims=True)
  with jax.enable_x64(True):
    scale = np.asarray(
      qparams.weight_scale(
        jnp.asarray(largest), rules.power_of_two, int16_activations
      ),
      np.float64,
    )
  height, width, channels, features = kernel.shape
  parts = _num_input_blocks(channels, height * width)
  groups = len(moments) // parts

  def divide(x: np.ndarray) -> np.ndarray:
    """[h, w, in, out] -> [groups * parts, inputs, out / groups]."""
    x = x.transpose(2, 0, 1, 3).reshape(parts, -1, groups, features // groups)
    x = x.transpose(2, 0, 1, 3)
    return x.reshape(groups * parts, -1, features // groups)

  # The largest weight is what the scale is computed from, again and again.
  steps = _round_gptq(divide(kernel / scale), divide(size >= largest), moments)
  steps = steps.reshape(groups, parts, -1, features // groups)
  steps = steps.transpose(1, 2, 0, 3)
  steps = steps.reshape(channels, height, width, features)
  return (steps.transpose(1, 2, 0, 3) * scale).astype(np.float32)


def round_kernels_gptq(
  model: Any,
  rules: rules_lib.Rules,
  variables: PyTree,
  images: Sequence[np.ndarray],
  *,
  mean: Sequence[float],
  std: Sequence[float],
) -> PyTree:
  """Returns variables whose convolutions have kernels of whole int8 steps.

  Biases make up for what the kernels change in the mean. Files of these
  variables, by any converter, hold those very integers. Other kernels, such as
  those of transposed convolutions, stay as they are: converters take the
  nearest.

  Args:
    model: of normalised images; in float32.
    rules: what is quantised.
    variables: {'params', 'batch_stats'}, BatchNorms folded; others are kept.
    images: [H, W, C] each, values as they are, of one size.
    mean: a value a channel.
    std: likewise.
  """
  params = flax.traverse_util.flatten_dict(variables['params'])
  for path, sums in measure_second_moments(
    model, variables, images, mean=mean, std=std
  ).items():
    name = '/'.join(path)
    if not re.fullmatch(rules.float_pattern, name):
      kernel = np.asarray(params[(*path, 'kernel')], np.float64)
      wide = rules.has_int16_activations(name)
      params[(*path, 'kernel')] = _round_kernel(kernel, sums, rules, wide)
  rounded = {**variables, 'params': flax.traverse_util.unflatten_dict(params)}
  return _bias_correction(model, variables, rounded, images, mean=mean, std=std)


def _bias_correction(
  model: Any,
  variables: PyTree,
  rounded: PyTree,
  images: Sequence[np.ndarray],
  *,
  mean: Sequence[float],
  std: Sequence[float],
) -> PyTree:
  """Returns rounded variables whose convolutions have the means of others.

  Layer by layer in one pass: each one sees what those before it have become.
  Convolutions without a bias, their own or their BatchNorm's, are left.

  Args:
    model: as of `round_kernels_gptq`.
    variables: likewise.
    rounded: those that change.
    images: as of `round_kernels_gptq`.
    mean: likewise.
    std: likewise.
  """
  fit = _BIAS_PIXELS // (images[0].shape[0] * images[0].shape[1])
  count = max(2, min(_BIAS_IMAGES, fit))
  x = image_format.normalize_image(
    np.stack(images[:count]).astype(np.float32),
    np.asarray(mean, np.float32),
    np.asarray(std, np.float32),
  )
  params = flax.traverse_util.flatten_dict(rounded['params'])
  norms = batch_norm_folding.find_batch_norms(model, rounded, x.shape[-1])
  places = {path[:-1]: path for path in params if path[-1] == 'bias'} | {
    conv: (*norm, 'bias') for conv, (norm, _) in norms.items()
  }

  def look(
    variables: PyTree, x: Array, wanted: dict[Path, Array]
  ) -> dict[Path, Array]:
    """Returns means, or what they lack of those that are wanted."""
    found: dict[Path, Array] = {}

    def watch(call, args, kwargs, context):
      out = call(*args, **kwargs)
      conv = context.module
      if context.method_name != '__call__' or not isinstance(conv, layers.Conv):
        return out
      means = out.mean((0, 1, 2))
      # One that is called twice is corrected for the first call.
      if conv.path in found or conv.path not in places:
        return out
      found[conv.path] = wanted[conv.path] - means if wanted else means
      return out + found[conv.path] if wanted else out

    with nn.intercept_methods(watch):
      model.apply(variables, x)
    return found

  see = jax.jit(look)
  only = ('params', 'batch_stats')
  wanted = see({k: variables[k] for k in only}, x, {})
  for path, change in see({k: rounded[k] for k in only}, x, wanted).items():
    place = places[path]
    params[place] = np.asarray(params[place]) + np.asarray(change)
  return {**rounded, 'params': flax.traverse_util.unflatten_dict(params)}
