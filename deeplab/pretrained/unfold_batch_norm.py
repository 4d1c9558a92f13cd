"""Restores BatchNorms that a converted file folded into its convolutions.

A converted file holds y = W x + b for each layer. Our layer is

    y = scale * (W x - mean) / sqrt(var + epsilon) + bias,

and in evaluation any constants with scale = sqrt(var + epsilon) and
bias = b + mean compute the file's function. Training normalizes by the
statistics of the batch instead: it computes nearly the same function only if
`mean` and `var` are the statistics of the layer's own maps. With other values
fine-tuning would start from a ruined network.

So after `merge`, which copies b into the bias, `set_identity_batch_norms` makes
the network compute the file's function in evaluation, and
`restore_batch_norms`, given training images, in training too.
"""

from collections.abc import Collection
from collections.abc import Iterable
from typing import Any
from typing import NamedTuple

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
PyTree = Any


class _ChannelMoments(NamedTuple):
  """Statistics of each channel over `num_values` values, in float64."""

  num_values: int
  mean: np.ndarray
  var: np.ndarray

  def combine(self, other: '_ChannelMoments') -> '_ChannelMoments':
    """Returns the moments over both sets (Chan, Golub and LeVeque, 1983)."""
    pixels = self.num_values + other.num_values
    share = other.num_values / pixels
    delta = other.mean - self.mean
    return _ChannelMoments(
      pixels,
      self.mean + share * delta,
      (1 - share) * self.var
      + share * other.var
      + share * (1 - share) * delta**2,
    )


class _BatchNormRecorder:
  """Records the input of each BatchNorm in one evaluation of the network.

  Attributes:
    epsilons: epsilon of each BatchNorm, by its path 'encoder/stem/norm/bn'.
    inputs: its input, [B, H, W, C] float32, by its path.
  """

  def __init__(self, model: nn.Module, variables: PyTree, images: Array):
    self.epsilons: dict[str, float] = {}
    self.inputs: dict[str, Array] = {}
    with nn.intercept_methods(self._intercept):
      model.apply(variables, images, train=False)

  def _intercept(self, call, args, kwargs, context):
    if isinstance(context.module, nn.BatchNorm):
      path = '/'.join(context.module.path)
      self.epsilons[path] = context.module.epsilon
      self.inputs[path] = args[0].astype(jnp.float32)
    return call(*args, **kwargs)


def _folded_epsilons(
  model: nn.Module, variables: PyTree, images: Array, paths: Collection[str]
) -> dict[str, float]:
  """Returns the epsilon of each folded BatchNorm by its path."""
  epsilons: dict[str, float] = {}

  def trace(variables, images):
    epsilons.update(_BatchNormRecorder(model, variables, images).epsilons)

  jax.eval_shape(trace, variables, images)
  return {
    path: epsilon
    for path, epsilon in epsilons.items()
    if f'{path}/bias' in paths and f'{path}/scale' not in paths
  }


def _replace_leaves(variables: PyTree, values: dict[str, np.ndarray]) -> PyTree:
  """Returns the variables with new values by 'params/encoder/stem/..'."""
  flat = traverse_util.flatten_dict(variables, sep='/')
  new = {path: np.float32(value) for path, value in values.items()}
  return traverse_util.unflatten_dict(flat | new, sep='/')


def set_identity_batch_norms(
  model: nn.Module,
  variables: PyTree,
  images: Array,
  paths: Collection[str],
) -> PyTree:
  """Makes the folded BatchNorms only add their bias, in evaluation.

  Args:
    model: network.
    variables: nested {'params', 'batch_stats'}, with the file's biases in the
      folded BatchNorms.
    images: [B, H, W, C] that the network accepts; only the shape is used.
    paths: paths of the variables that came from the file, without collections:
      a BatchNorm is folded if its bias is among them and its scale is not.

  Returns:
    A copy with mean 0, variance 1 and a scale that undoes epsilon. For training
    `restore_batch_norms` must follow.
  """
  flat = traverse_util.flatten_dict(variables, sep='/')
  values = {}
  for path, epsilon in _folded_epsilons(
    model, variables, images, paths
  ).items():
    ones = np.ones_like(flat[f'params/{path}/scale'])
    values[f'params/{path}/scale'] = np.sqrt(1 + epsilon) * ones
    values[f'batch_stats/{path}/mean'] = 0 * ones
    values[f'batch_stats/{path}/var'] = ones
  return _replace_leaves(variables, values)


def restore_batch_norms(
  model: nn.Module,
  variables: PyTree,
  batches: Iterable[Array],
  paths: Collection[str],
) -> PyTree:
  """Estimates the statistics of folded BatchNorms, the function unchanged.

  Mean and variance are those of each layer's maps on the images; scale and bias
  follow, so that the network computes in evaluation the same as before. All
  layers are measured in one pass, since none changes another's maps. A channel
  that never varies gets variance 0 and a scale of sqrt(epsilon): if it starts
  to vary in training, no batch amplifies it beyond the file's gain.

  Args:
    model: network, in float32.
    variables: the result of `set_identity_batch_norms`.
    batches: training images [B, H, W, C], normalized and augmented as in
      training; some hundred images, since the BatchNorm behind image pooling
      sees one value per image.
    paths: paths of the variables that came from the file, without collections.

  Raises:
    ValueError: there are no batches, or a layer's maps are not finite.
  """

  @jax.jit
  def measure(variables, images):
    inputs = _BatchNormRecorder(model, variables, images).inputs
    return {
      path: (jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2)), x[..., 0].size)
      for path, x in inputs.items()
    }

  moments: dict[str, _ChannelMoments] = {}
  epsilons: dict[str, float] = {}
  for images in batches:
    if not epsilons:
      epsilons = _folded_epsilons(model, variables, images, paths)
    measured = jax.device_get(measure(variables, images))
    for path in epsilons:
      mean, var, count = measured[path]
      new = _ChannelMoments(
        int(count), mean.astype(np.float64), var.astype(np.float64)
      )
      moments[path] = moments[path].combine(new) if path in moments else new
  if not moments:
    raise ValueError(
      'there are no images to measure the folded BatchNorms on: pass one or '
      'more batches of training images'
    )

  flat = traverse_util.flatten_dict(variables, sep='/')
  values = {}
  for path, (_, mean, var) in moments.items():
    if not (np.isfinite(mean).all() and np.isfinite(var).all()):
      raise ValueError(
        f'the maps that enter {path} are not finite: the weights do not fit '
        'the network, or the images are not normalized as in its training'
      )
    old = {
      name: np.float64(flat[f'{kind}/{path}/{name}'])
      for kind, names in (
        ('params', ('scale', 'bias')),
        ('batch_stats', ('mean', 'var')),
      )
      for name in names
    }
    gain = old['scale'] / np.sqrt(old['var'] + epsilons[path])
    offset = old['bias'] - gain * old['mean']
    values[f'params/{path}/scale'] = gain * np.sqrt(var + epsilons[path])
    values[f'params/{path}/bias'] = offset + gain * mean
    values[f'batch_stats/{path}/mean'] = mean
    values[f'batch_stats/{path}/var'] = var
  return _replace_leaves(variables, values)
