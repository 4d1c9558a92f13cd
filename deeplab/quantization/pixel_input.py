"""The network of an exported file: it normalizes images in its first layer.

Files take pixels, not normalized images. In simulated int8 the network has to
do the same, because what it normalizes is rounded to int8.
"""

from collections.abc import Sequence
import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from deeplab.models import layers
from deeplab.models import segmenter
from deeplab.quantization import rules as rules_lib

Array = jax.Array
PyTree = Any


class InputNormalizedSegmenter(segmenter.Segmenter):
  """A Segmenter of images that are not normalized.

  Its first layer, `normalize`, is a depthwise 1x1 convolution with a bias.
  Simulated int8 computes that to the last bit; a multiplication and an addition
  would round the mean and the deviation to 8 bits.
  """

  @nn.compact
  def __call__(self, images: Array, *args: Any, **kwargs: Any):
    """Maps images [B, H, W, C] float32 to a `SegmenterOutput`."""
    channels = images.shape[-1]
    x = layers.Conv(channels, groups=channels, use_bias=True, name='normalize')(
      images
    )
    return super().__call__(x, *args, **kwargs)


def with_input_normalization(
  model: segmenter.Segmenter, rules: rules_lib.Rules, channels: int
) -> InputNormalizedSegmenter:
  """Returns the network of pixels, given the one of normalized images.

  Args:
    model: of normalized images.
    rules: the layers that are quantized.
    channels: number of image channels.

  Raises:
    ValueError: the layer that reads the image stays in float. Normalized images
      would then have no int8 range.
  """
  first = ''
  if rules.float_layers:
    first = segmenter.find_first_conv(model, channels)
  if re.fullmatch(rules.float_pattern, first):
    raise ValueError(
      f'float_layers={rules.float_layers!r} keeps {first} in float32, the one '
      'that reads the image: normalized images would have no int8 range. Leave '
      'it out, or export with --normalization=caller'
    )
  fields = ('encoder', 'head', 'auxiliary', 'num_classes')
  return InputNormalizedSegmenter(
    **{name: getattr(model, name) for name in fields}
  )


def add_normalization_layer(
  variables: PyTree, mean: Sequence[float], std: Sequence[float]
) -> PyTree:
  """Adds the layer `normalize` to the variables of a model.

  Args:
    variables: {'params', ...}; all are kept.
    mean: one value for each channel.
    std: one value for each channel.
  """
  scale = 1 / np.asarray(std, np.float32)
  layer = {
    'kernel': scale[None, None, None],
    'bias': -np.asarray(mean, np.float32) * scale,
  }
  return {**variables, 'params': {**variables['params'], 'normalize': layer}}
