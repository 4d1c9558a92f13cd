"""Folds BatchNorms into the convolutions before them, as converters do.

    kernel * factor, with factor = scale / sqrt(var + epsilon), and
    shift = bias - mean * factor

where scale, bias, mean and var are those of the BatchNorm.
"""

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
  """Returns the BatchNorm behind each convolution that has one.

  Args:
    model: of images [B, H, W, C].
    variables: {'params', 'batch_stats'}.
    channels: number of image channels C.

  Returns:
    {path of the convolution: (path of its BatchNorm, epsilon)}.
  """
  outputs: list[tuple[Any, Path]] = []
  found: dict[Path, tuple[Path, float]] = {}

  def record(call, args, kwargs, context):
    out = call(*args, **kwargs)
    module = context.module
    if context.method_name == '__call__':
      if isinstance(module, layers.Conv):
        outputs.append((out, module.path))
      elif isinstance(module, layers.BatchNorm):
        for value, path in outputs:
          if value is args[0]:
            found[path] = (*module.path, 'bn'), module.norm.epsilon
    return out

  with nn.intercept_methods(record):
    image = jax.ShapeDtypeStruct((1, 65, 65, channels), jnp.float32)
    jax.eval_shape(model.apply, variables, image)
  return found


def fold_batch_norms(
  model: Any, variables: PyTree, channels: int = 3
) -> PyTree:
  """Folds the factors of BatchNorms into kernels; BatchNorms only add then.

  The network computes the same function. One scale per kernel becomes possible,
  and a channel that BatchNorm nearly switches off gets no scale so small that
  its bias overflows int32. A BatchNorm without a convolution before it stays as
  it is.

  Args:
    model: of images [B, H, W, C], built as for export.
    variables: {'params', 'batch_stats'}; others are kept.
    channels: number of image channels C.

  Returns:
    The variables, with factors of 1 and means of 0.
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
      # The file has one bias, which is rounded once. Two constants would be
      # rounded twice in the simulation.
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
