"""ERFNet's decoder: transposed convolutions, without skip connections.

Romera et al., "ERFNet: Efficient Residual Factorized ConvNet for Real-Time
Semantic Segmentation" (2017), table 1. It needs an encoder that ends at
stride 8.
"""

import dataclasses
import functools
from typing import Literal

import flax.linen as nn
import jax

from deeplab.models import factorized
from deeplab.models import layers
from deeplab.models.heads import base

Array = jax.Array


class ERFNet(base.Head):
  """Maps feature maps to logits [B, h, w, num_classes] at the image's size.

  The size is exact where the image's sides are multiples of 8. Elsewhere the
  maps are cropped to the encoder's at strides 4 and 2, and the logits have up
  to one row and column more than the image.

  Fields of `base.Head`, and

  Attributes:
    channels: channels at strides 4 and 2.
    blocks: number of blocks at each of the two.
    padding: padding of all convolutions, transposed ones included.
  """

  bn_epsilon: float = 1e-3
  channels: tuple[int, int] = (64, 16)
  blocks: int = 2
  padding: Literal['same', 'symmetric'] = 'symmetric'

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`.

    Raises:
      ValueError: the encoder returns fewer than three stages, or the padding is
        unknown.
    """
    del dropout_keys  # the decoder has no dropout
    if len(features) < 3:
      raise ValueError(
        f'the encoder returns {len(features)} stages; this head needs those of '
        'strides 2, 4 and 8'
      )
    non_bottleneck = functools.partial(
      factorized.NonBottleneck1D,
      rate=1,
      norm=self.norm,
      padding=self.padding,
      options=self.options,
    )
    x = features[-1]
    for i, channels in enumerate(self.channels):
      height, width = features[1 - i].shape[1:3]
      x = layers.ConvTranspose(
        channels,
        kernel=3,
        use_bias=True,
        padding=self.padding,
        options=self.options,
        name=f'up{i}',
      )(x)
      # Not by indexing: the int8 simulator would take that for a gather.
      for axis, size in ((1, height), (2, width)):
        x = jax.lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
      x = layers.BatchNorm(self.norm, 'relu', self.options, name=f'up{i}_norm')(
        x, train
      )
      for j in range(self.blocks):
        x = non_bottleneck(name=f'decoder{i}_block{j}')(x, train)
    logits = layers.ConvTranspose(
      self.num_classes,
      kernel=2,
      use_bias=True,
      options=dataclasses.replace(self.options, dtype='float32'),
      kernel_init=nn.initializers.glorot_uniform(),
      name='classifier',
    )(x)
    return (logits,)
