"""Channels that a depthwise convolution reads, brought to one range.

A map has one scale. A channel that is a hundredth of the widest one has two or
three steps, and the kernel that reads it makes up for its size, for the error
as well. But a depthwise kernel has a scale for each channel: between a
convolution and the depthwise one that alone reads it, any channel may be
multiplied and its kernel divided, for nothing. It is the part of cross-layer
equalisation (arXiv:1906.04721) that costs no precision elsewhere; where dense
kernels read the map, whose weights share a scale, the rest made files worse.
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

# Activations f with f(s x) = s f(x) for s > 0, and up to which value.
_LINEAR_LIMITS = {'none': np.inf, 'relu': np.inf, 'relu6': 6.0}
# Of that value, for images that are brighter than those of the calibration.
_LIMIT_MARGIN = 0.9
# What calibration images hardly use may be used by others.
_MAX_FACTOR = 64.0
# Images on which the function must stay.
_NUM_CHECK_IMAGES = 2


class ConvPair(NamedTuple):
  """A convolution, and the depthwise one that alone reads it.

  Attributes:
    conv: path of the convolution.
    batch_norm: path of the BatchNorm behind it.
    depthwise: path of the depthwise convolution.
    linear_limit: up to where the activation between them is linear.
  """

  conv: Path
  batch_norm: Path
  depthwise: Path
  linear_limit: float


def _find_pairs(
  model: Any, variables: PyTree, x: Array
) -> tuple[list[ConvPair], list[Array]]:
  """Returns all pairs, and the largest values of the maps between them."""
  convolved: list[tuple[Any, Path]] = []
  normed: list[tuple[Any, Path, Path, str]] = []
  readers: dict[Path, list[tuple[ConvPair | None, Array]]] = {}

  def watch(call, args, kwargs, context):
    module = context.module
    out = call(*args, **kwargs)
    if context.method_name != '__call__':
      return out
    if isinstance(module, layers.BatchNorm):
      normed.extend(
        (out, path, (*module.path, 'bn'), module.activation)
        for value, path in convolved
        if value is args[0]
      )
    elif isinstance(module, layers.Conv):
      convolved.append((out, module.path))
      for value, first, norm, activation in normed:
        if value is args[0]:
          pair = None
          if (
            activation in _LINEAR_LIMITS
            and module.groups == value.shape[-1] > 1
          ):
            pair = ConvPair(
              first, norm, module.path, _LINEAR_LIMITS[activation]
            )
          largest = jnp.abs(value).max((0, 1, 2))
          readers.setdefault(norm, []).append((pair, largest))
    return out

  with nn.intercept_methods(watch):
    model.apply(variables, x)
  alone = [found[0] for found in readers.values() if len(found) == 1]
  kept = [(pair, largest) for pair, largest in alone if pair is not None]
  return [pair for pair, _ in kept], [largest for _, largest in kept]


def _channel_factors(largest: np.ndarray, linear_limit: float) -> np.ndarray:
  """Returns what to multiply each channel by, 1 at least.

  Args:
    largest: of each channel.
    linear_limit: of `ConvPair`.
  """
  top = min(largest.max(), _LIMIT_MARGIN * linear_limit)
  used = largest > 1e-6 * top
  factors = np.where(used, top / np.where(used, largest, 1), 1)
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
  """Returns variables of the same function, as far as these images show.

  A pair whose map something else reads, too, stays as it is.

  Args:
    model: of normalised images; in float32.
    variables: {'params', 'batch_stats'}, BatchNorms folded; others are kept.
    images: [H, W, C] each, values as they are, of one size.
    mean: a value a channel.
    std: likewise.
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
  def look(params: PyTree, x: Array) -> list[Array]:
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
    found = [np.asarray(v) for v in look(unflatten(params), x)]
    largest = [
      np.maximum(a, b) for a, b in zip(largest or found, found, strict=True)
    ]
  if not pairs:
    return variables
  x = image_format.normalize_image(
    np.stack(images[:_NUM_CHECK_IMAGES]).astype(np.float32), shift, scale
  )
  wanted = np.asarray(compute(unflatten(params), x))
  close = 1e-3 * np.abs(wanted).max()
  for pair, values in zip(pairs, largest, strict=True):
    changed = _apply_factors(
      params, pair, _channel_factors(values, pair.linear_limit)
    )
    found_logits = np.asarray(compute(unflatten(changed), x))
    if np.abs(found_logits - wanted).max() <= close:
      params, wanted = changed, found_logits
  return {**variables, 'params': unflatten(params)}
