"""BatchNorms folded into the convolutions before them, as converters do it."""

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab.models import layers

PyTree = Any
Path = tuple[str, ...]


def find_batch_norms(
  model: Any, variables: PyTree, channels: int = 3
) -> dict[Path, tuple[Path, float]]:
  """Returns, by each convolution's path, its BatchNorm's and that's epsilon.

  Args:
    model: of images [B, H, W, C].
    variables: {'params', 'batch_stats'}.
    channels: C.
  """
  made: list[tuple[Any, Path]] = []
  found: dict[Path, tuple[Path, float]] = {}

  def watch(call, args, kwargs, context):
    out = call(*args, **kwargs)
    module = context.module
    if context.method_name == '__call__':
      if isinstance(module, layers.Conv):
        made.append((out, module.path))
      elif isinstance(module, layers.BatchNorm):
        for value, path in made:
          if value is args[0]:
            found[path] = (*module.path, 'bn'), module.norm.epsilon
    return out

  with nn.intercept_methods(watch):
    image = jax.ShapeDtypeStruct((1, 65, 65, channels), jnp.float32)
    jax.eval_shape(model.apply, variables, image)
  return found


def fold_batch_norms(
  model: Any, variables: PyTree, channels: int = 3
) -> PyTree:
  """Returns variables of the same function whose BatchNorms only add.

  Kernels carry the factors: one scale a tensor is then possible, and a channel
  that is all but dead has no scale that its bias overflows. BatchNorms that no
  convolution feeds stay as they are.

  Args:
    model: of images [B, H, W, C], as deployed.
    variables: {'params', 'batch_stats'}; others are kept.
    channels: C.
  """
  params = flax.traverse_util.flatten_dict(variables['params'])
  stats = flax.traverse_util.flatten_dict(variables['batch_stats'])
  params = {k: np.asarray(v) for k, v in params.items()}
  stats = {k: np.asarray(v) for k, v in stats.items()}
  for conv, (norm, epsilon) in find_batch_norms(
    model, variables, channels
  ).items():
    mean, var = stats[(*norm, 'mean')], stats[(*norm, 'var')]
    factor = params[(*norm, 'scale')] / np.sqrt(var + np.float32(epsilon))
    shift = params[(*norm, 'bias')] - mean * factor
    params[(*conv, 'kernel')] = params[(*conv, 'kernel')] * factor
    if (*conv, 'bias') in params:
      # One constant is rounded once; two would be, in a simulation, twice.
      shift = shift + params[(*conv, 'bias')] * factor
      params[(*conv, 'bias')] = np.zeros_like(shift)
    params[(*norm, 'scale')] = np.ones_like(factor)
    params[(*norm, 'bias')] = shift
    stats[(*norm, 'mean')] = np.zeros_like(mean)
    stats[(*norm, 'var')] = np.full_like(var, 1 - epsilon)
  return {
    **variables,
    'params': flax.traverse_util.unflatten_dict(params),
    'batch_stats': flax.traverse_util.unflatten_dict(stats),
  }
