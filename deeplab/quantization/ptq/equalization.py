"""Cross-layer equalization in front of depthwise convolutions.

A map has one scale for all channels. A channel a hundredth as large as the
largest one is left with two or three steps, and the kernel that reads it
amplifies their error. A depthwise kernel has a scale for each channel, so that
a channel may be multiplied by s and the kernel that reads it divided by s at no
cost, if an activation f with f(s x) = s f(x) is between them.

This is the part of cross-layer equalization (arXiv:1906.04721) that costs no
precision elsewhere. In front of dense kernels, whose input channels share one
scale, it made files worse.
"""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab.data import image_format
from deeplab.models import layers

Array = jax.Array
PyTree = Any
Path = tuple[str, ...]

# Activations f with f(s x) = s f(x) for s > 0, by the value up to which it
# holds.
_LINEAR_LIMITS = {'none': np.inf, 'relu': np.inf, 'relu6': 6.0}
# The share of that value to scale up to: other images may have larger
# activations than those of the calibration.
_LIMIT_MARGIN = 0.9
# A channel that is almost 0 on calibration images may be used by others.
_MAX_FACTOR = 64.0
# Number of images on which the outputs must stay the same.
_NUM_CHECK_IMAGES = 2


class ConvPair(NamedTuple):
  """A convolution, and the depthwise convolution that is its only reader.

  Attributes:
    conv: path of the convolution.
    batch_norm: path of the BatchNorm between them.
    depthwise: path of the depthwise convolution.
    linear_limit: value up to which the activation between them is linear.
  """

  conv: Path
  batch_norm: Path
  depthwise: Path
  linear_limit: float


def _find_pairs(
  model: Any, variables: PyTree, x: Array
) -> tuple[list[ConvPair], list[Array]]:
  """Returns all pairs, and the largest values [C] of the maps between them."""
  conv_outputs: list[tuple[Any, Path]] = []
  norm_outputs: list[tuple[Any, Path, Path, str]] = []
  readers: dict[Path, list[tuple[ConvPair | None, Array]]] = {}

  def record(call, args, kwargs, context):
    module = context.module
    out = call(*args, **kwargs)
    if context.method_name != '__call__':
      return out
    if isinstance(module, layers.BatchNorm):
      norm_outputs.extend(
        (out, path, (*module.path, 'bn'), module.activation)
        for value, path in conv_outputs
        if value is args[0]
      )
    elif isinstance(module, layers.Conv):
      conv_outputs.append((out, module.path))
      for value, conv, norm, activation in norm_outputs:
        if value is args[0]:
          pair = None
          if (
            activation in _LINEAR_LIMITS
            and module.groups == value.shape[-1] > 1
          ):
            pair = ConvPair(conv, norm, module.path, _LINEAR_LIMITS[activation])
          largest = jnp.abs(value).max((0, 1, 2))
          readers.setdefault(norm, []).append((pair, largest))
    return out

  with nn.intercept_methods(record):
    model.apply(variables, x)
  only_readers = [found[0] for found in readers.values() if len(found) == 1]
  pairs = [
    (pair, largest) for pair, largest in only_readers if pair is not None
  ]
  return [pair for pair, _ in pairs], [largest for _, largest in pairs]


def _channel_factors(largest: np.ndarray, linear_limit: float) -> np.ndarray:
  """Returns the factor of each channel, float32 [C], at least 1.

  Args:
    largest: [C], largest absolute value of each channel.
    linear_limit: value up to which the activation is linear.
  """
  target = min(largest.max(), _LIMIT_MARGIN * linear_limit)
  used = largest > 1e-6 * target
  factors = np.where(used, target / np.where(used, largest, 1), 1)
  return np.clip(factors, 1, _MAX_FACTOR).astype(np.float32)


def _apply_factors(
  params: dict[Path, np.ndarray], pair: ConvPair, factors: np.ndarray
) -> dict[Path, np.ndarray]:
  changed = dict(params)
  for path in (
    *((*pair.conv, name) for name in ('kernel', 'bias')),
    (*pair.batch_norm, 'bias'),
  ):
    if path in params:
      changed[path] = params[path] * factors
  # [h, w, 1, channels * multiplier]
  kernel = params[(*pair.depthwise, 'kernel')]
  multiplier = kernel.shape[-1] // len(factors)
  changed[(*pair.depthwise, 'kernel')] = kernel / factors.repeat(multiplier)
  return changed


def equalize_channels(
  model: Any,
  variables: PyTree,
  images: Sequence[np.ndarray],
  *,
  mean: Sequence[float],
  std: Sequence[float],
) -> PyTree:
  """Equalizes the channels that depthwise convolutions read.

  The network computes the same function: a pair is left alone if its map has
  another reader, or if the outputs on the first two images change by more than
  a thousandth.

  Args:
    model: of normalized images; in float32.
    variables: {'params', 'batch_stats'}, BatchNorms folded; others are kept.
    images: [H, W, C] each, not normalized, of one size.
    mean: one value for each channel.
    std: one value for each channel.
  """
  shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  stats = {'batch_stats': variables['batch_stats']}
  unflatten = flax.traverse_util.unflatten_dict
  params = {
    k: np.asarray(v)
    for k, v in flax.traverse_util.flatten_dict(variables['params']).items()
  }
  pairs: list[ConvPair] = []

  @jax.jit
  def find_largest(params: PyTree, x: Array) -> list[Array]:
    pairs[:], found = _find_pairs(model, {'params': params, **stats}, x)
    return found

  @jax.jit
  def compute(params: PyTree, x: Array) -> Array:
    output: Any = model.apply({'params': params, **stats}, x)
    return output.logits

  largest: list[np.ndarray] = []
  for image in images:
    x = image_format.normalize_image(
      np.asarray(image, np.float32)[None], shift, scale
    )
    found = [np.asarray(v) for v in find_largest(unflatten(params), x)]
    largest = [
      np.maximum(a, b) for a, b in zip(largest or found, found, strict=True)
    ]
  if not pairs:
    return variables
  x = image_format.normalize_image(
    np.stack(images[:_NUM_CHECK_IMAGES]).astype(np.float32), shift, scale
  )
  expected = np.asarray(compute(unflatten(params), x))
  tolerance = 1e-3 * np.abs(expected).max()
  for pair, values in zip(pairs, largest, strict=True):
    changed = _apply_factors(
      params, pair, _channel_factors(values, pair.linear_limit)
    )
    logits = np.asarray(compute(unflatten(changed), x))
    if np.abs(logits - expected).max() <= tolerance:
      params, expected = changed, logits
  return {**variables, 'params': unflatten(params)}
