"""The network as it stands in a file: pixels in, normalised by a layer."""

from collections.abc import Sequence
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deeplab.models import layers
from deeplab.models import segmenter
from deeplab.quantization import rules as rules_lib

Array = jax.Array
PyTree = Any


class InputNormalizedSegmenter(segmenter.Segmenter):
  """A Segmenter of images as they are; `normalize` is its first layer.

  The layer is a depthwise 1x1 convolution with a bias, which int8 arithmetic
  computes to the last step: a multiplication and an addition with constants of
  8 bits would not.
  """

  @nn.compact
  def __call__(self, images: Array, *args: Any, **kwargs: Any):
    """Maps images [B, H, W, C], float32, to what a Segmenter returns."""
    channels = images.shape[-1]
    x = layers.Conv(channels, groups=channels, use_bias=True, name='normalize')(
      images
    )
    return super().__call__(x, *args, **kwargs)


def _first_conv_path(model: segmenter.Segmenter, channels: int) -> str:
  """Returns the path of the convolution that reads the image."""
  found: list[str] = []

  def watch(call, args, kwargs, context):
    conv = context.module
    if context.method_name == '__call__' and isinstance(conv, layers.Conv):
      found.append('/'.join(conv.path))
    return call(*args, **kwargs)

  image = jax.ShapeDtypeStruct((1, 65, 65, channels), jnp.float32)
  with nn.intercept_methods(watch):
    jax.eval_shape(model.init, jax.random.key(0), image)
  return found[0]


def with_input_normalization(
  model: segmenter.Segmenter, rules: rules_lib.Rules, channels: int
) -> InputNormalizedSegmenter:
  """Returns the network of pixels that goes on as a network of normalised ones.

  Args:
    model: of normalised images.
    rules: what is int8.
    channels: of the images.

  Raises:
    ValueError: the layer that reads the image is not.
  """
  first = _first_conv_path(model, channels) if rules.float_layers else ''
  if re.fullmatch(rules.float_pattern, first):
    raise ValueError(
      f'float_layers={rules.float_layers!r} keeps {first} in float32, which '
      'reads the image: what normalises pixels would have no int8 range. '
      'Leave it out, or export with --normalization=caller'
    )
  fields = ('encoder', 'head', 'auxiliary', 'num_classes')
  return InputNormalizedSegmenter(
    **{name: getattr(model, name) for name in fields}
  )


def add_normalization_layer(
  variables: PyTree, mean: Sequence[float], std: Sequence[float]
) -> PyTree:
  """Adds the input normalization layer to the variables of a model.

  Args:
    variables: 'params' and whatever else; all are kept.
    mean: a value a channel.
    std: likewise.
  """
  scale = 1 / np.asarray(std, np.float32)
  layer = {
    'kernel': scale[None, None, None],
    'bias': -np.asarray(mean, np.float32) * scale,
  }
  return {**variables, 'params': {**variables['params'], 'normalize': layer}}
