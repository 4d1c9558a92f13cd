"""GPTQ: rounds kernels so that the outputs of convolutions change least.

Rounding each weight to the nearest step is not the best choice: an edge filter
whose weights no longer add up to 0 responds to every flat area. GPTQ
(arXiv:2210.17323) takes the inputs of a convolution into account:

  1. Sum the second moments H = x x^T of the inputs x of each convolution over
     the calibration images (`measure_second_moments`).
  2. Sort the weights by their moment: those that are multiplied by the largest
     inputs come first.
  3. Round one weight after the other. The weights that are still to come take
     over its error, as far as the correlation of their inputs allows: through
     the Cholesky factor of H^-1 (`_round_gptq`).
  4. Correct biases by the mean error that is left (arXiv:1906.04721, section
     4.2): the errors of many layers add up there, and shift the logits of one
     class against another's (`_bias_correction`).
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
# Largest block of inputs; kernels with more are rounded in blocks, since time
# grows with the third power.
_MAX_BLOCK_INPUTS = 2304
# Share of the mean second moment that is added to each (damping): inputs that
# are 0 on calibration images need not be 0 on others.
_DAMPING = 0.01
# Number of images for bias correction, which gives the same means as all of
# them. They are one batch: of large images fewer are taken.
_BIAS_IMAGES = 16
_BIAS_PIXELS = 16 * 513**2


def _num_input_blocks(channels: int, taps: int) -> int:
  """Returns the number of equal blocks of a kernel's inputs."""
  return next(
    parts
    for parts in range(1, channels + 1)
    if channels % parts == 0
    and (channels // parts * taps <= _MAX_BLOCK_INPUTS or parts == channels)
  )


def _extract_patches(conv: layers.Conv, x: Array) -> Array:
  """Returns the inputs of each output pixel of a convolution, [N, C, taps]."""
  size = layers.as_pair(conv.kernel)
  pads = layers.explicit_padding(
    conv.padding, x.shape[1:3], size, conv.stride, conv.rate
  )
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  slices = [
    [
      slice(i * conv.rate, n - (k - 1 - i) * conv.rate, conv.stride)
      for i in range(k)
    ]
    for n, k in zip(x.shape[1:3], size, strict=True)
  ]
  taps = [x[:, rows, columns] for rows in slices[0] for columns in slices[1]]
  return jnp.stack(taps, -1).reshape(-1, x.shape[-1], len(taps))


def measure_second_moments(
  model: Any,
  variables: PyTree,
  images: Sequence[np.ndarray],
  *,
  mean: Sequence[float],
  std: Sequence[float],
) -> dict[Path, np.ndarray]:
  """Returns the second moments of the inputs of each convolution.

  Args:
    model: of normalized images; in float32.
    variables: {'params', 'batch_stats'}.
    images: [H, W, C] each, not normalized, of one size.
    mean: one value for each channel.
    std: one value for each channel.

  Returns:
    {path of the convolution: sums [groups * blocks, n, n] float64}. The n
    inputs of a block are ordered by channel, then row and column of the kernel.
  """

  @jax.jit
  def sum_moments(variables: PyTree, x: Array) -> dict[Path, Array]:
    moments: dict[Path, Array] = {}

    def record(call, args, kwargs, context):
      conv = context.module
      if context.method_name == '__call__' and isinstance(conv, layers.Conv):
        patches = _extract_patches(conv, args[0])
        count, channels, taps = patches.shape
        blocks = conv.groups * _num_input_blocks(channels // conv.groups, taps)
        patches = patches.reshape(count, blocks, -1)
        sums = jnp.einsum('npi,npj->pij', patches, patches)
        # A convolution that is called twice has both inputs.
        moments[conv.path] = moments.get(conv.path, 0) + sums
      return call(*args, **kwargs)

    with nn.intercept_methods(record):
      model.apply(variables, x)
    return moments

  shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  variables = {k: variables[k] for k in ('params', 'batch_stats')}
  total: dict[Path, np.ndarray] = {}
  for image in images:
    x = image_format.normalize_image(
      np.asarray(image, np.float32)[None], shift, scale
    )
    for path, sums in sum_moments(variables, x).items():
      total[path] = total.get(path, 0) + np.asarray(sums, np.float64)
  return total


def _round_gptq(
  weights: np.ndarray, keeps_nearest: np.ndarray, moments: np.ndarray
) -> np.ndarray:
  """Rounds blocks of weights, one input after the other.

  Args:
    weights: [P, n, M], divided by their scales.
    keeps_nearest: [P, n, M], True for weights that go to the nearest integer.
    moments: [P, n, n], second moments of the n inputs.

  Returns:
    Integers, [P, n, M] float64.
  """
  width = weights.shape[1]
  own = np.diagonal(moments, axis1=1, axis2=2)
  # Weights of the largest inputs are rounded first, while many others are left
  # to take over their error.
  order = np.argsort(-own, axis=1, kind='stable')
  rows = order[:, :, None]
  moments = np.take_along_axis(moments, rows, 1)
  moments = np.take_along_axis(moments, order[:, None], 2)
  damping = _DAMPING * own.mean(1) + 1e-12
  moments = moments + damping[:, None, None] * np.eye(width)
  left = np.take_along_axis(weights, rows, 1)
  keeps_nearest = np.take_along_axis(keeps_nearest, rows, 1)
  nearest = np.rint(left)
  upper = np.linalg.cholesky(np.linalg.inv(moments)).swapaxes(1, 2)
  steps = np.empty_like(left)
  for i in range(width):
    rounded = np.clip(np.rint(left[:, i]), -127, 127)
    steps[:, i] = np.where(keeps_nearest[:, i], nearest[:, i], rounded)
    error = (left[:, i] - steps[:, i]) / upper[:, i, i, None]
    left[:, i + 1 :] -= upper[:, i, i + 1 :, None] * error[:, None]
  return np.take_along_axis(steps, np.argsort(order, axis=1)[:, :, None], 1)


def _round_kernel(
  kernel: np.ndarray,
  moments: np.ndarray,
  rules: rules_lib.Rules,
  int16_activations: bool = False,
) -> np.ndarray:
  """Rounds a kernel to multiples of its scales.

  Args:
    kernel: [h, w, in, out].
    moments: [groups * blocks, n, n], as `measure_second_moments` returns them.
    rules: how kernels are scaled.
    int16_activations: the convolution reads int16 activations.

  Returns:
    float32 [h, w, in, out].
  """
  axes = (0, 1, 2) if rules.weights == 'channel' else None
  magnitude = np.abs(kernel)
  largest = magnitude.max(axes, keepdims=True)
  with jax.enable_x64(True):
    scale = np.asarray(
      qparams.weight_scale(
        jnp.asarray(largest), rules.power_of_two, int16_activations
      ),
      np.float64,
    )
  height, width, channels, features = kernel.shape
  blocks = _num_input_blocks(channels, height * width)
  groups = len(moments) // blocks

  def to_blocks(x: np.ndarray) -> np.ndarray:
    """[h, w, in, out] -> [groups * blocks, inputs, out / groups]."""
    x = x.transpose(2, 0, 1, 3).reshape(blocks, -1, groups, features // groups)
    x = x.transpose(2, 0, 1, 3)
    return x.reshape(groups * blocks, -1, features // groups)

  # The largest weight goes to the nearest step, 127: every later stage computes
  # the scale from it anew.
  steps = _round_gptq(
    to_blocks(kernel / scale), to_blocks(magnitude >= largest), moments
  )
  steps = steps.reshape(groups, blocks, -1, features // groups)
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
  """Rounds the kernels of all quantized convolutions, and corrects biases.

  Kernels are then multiples of their int8 scales, so that a file made by any
  converter holds these integers. Other kernels, such as those of transposed
  convolutions, stay as they are: converters round them to the nearest step.

  Args:
    model: of normalized images; in float32.
    rules: the layers that are quantized.
    variables: {'params', 'batch_stats'}, BatchNorms folded; others are kept.
    images: [H, W, C] each, not normalized, of one size.
    mean: one value for each channel.
    std: one value for each channel.
  """
  params = flax.traverse_util.flatten_dict(variables['params'])
  for path, sums in measure_second_moments(
    model, variables, images, mean=mean, std=std
  ).items():
    name = '/'.join(path)
    if not re.fullmatch(rules.float_pattern, name):
      kernel = np.asarray(params[(*path, 'kernel')], np.float64)
      int16 = rules.has_int16_activations(name)
      params[(*path, 'kernel')] = _round_kernel(kernel, sums, rules, int16)
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
  """Adds to biases the error that rounding made in the mean of each channel.

  All layers are corrected in one pass, so that each sees the corrected outputs
  of those before it. A convolution without a bias, of its own or of its
  BatchNorm, is left alone.

  Args:
    model: of normalized images; in float32.
    variables: {'params', 'batch_stats'} before rounding.
    rounded: {'params', 'batch_stats'} after it; others are kept.
    images: [H, W, C] each, not normalized, of one size.
    mean: one value for each channel.
    std: one value for each channel.

  Returns:
    `rounded`, with other biases.
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
  biases = {path[:-1]: path for path in params if path[-1] == 'bias'} | {
    conv: (*norm, 'bias') for conv, (norm, _) in norms.items()
  }

  @jax.jit
  def compare_means(
    variables: PyTree, x: Array, expected: dict[Path, Array]
  ) -> dict[Path, Array]:
    """Returns the means [C] of outputs, or if given, `expected` less these."""
    found: dict[Path, Array] = {}

    def record(call, args, kwargs, context):
      out = call(*args, **kwargs)
      conv = context.module
      if context.method_name != '__call__' or not isinstance(conv, layers.Conv):
        return out
      means = out.mean((0, 1, 2))
      # A convolution that is called twice is corrected for the first call.
      if conv.path in found or conv.path not in biases:
        return out
      found[conv.path] = expected[conv.path] - means if expected else means
      return out + found[conv.path] if expected else out

    with nn.intercept_methods(record):
      model.apply(variables, x)
    return found

  only = ('params', 'batch_stats')
  expected = compare_means({k: variables[k] for k in only}, x, {})
  errors = compare_means({k: rounded[k] for k in only}, x, expected)
  for path, error in errors.items():
    bias = biases[path]
    params[bias] = np.asarray(params[bias]) + np.asarray(error)
  return {**rounded, 'params': flax.traverse_util.unflatten_dict(params)}
