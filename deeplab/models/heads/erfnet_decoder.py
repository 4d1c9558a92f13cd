"""ERFNet's decoder: transposed convolutions, and no finer maps.

Romera et al., "ERFNet: Efficient Residual Factorized ConvNet for Real-Time
Semantic Segmentation" (2017), table 1. For an encoder that ends at stride 8.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax

from deeplab.models import factorized
from deeplab.models import layers
from deeplab.models.heads import base

Array = jax.Array


class ERFNet(base.Head):
  """Maps stage maps to logits [B, h, w, num_classes] of the image's size.

  That is exact where the image's sizes are multiples of 8. Elsewhere the maps
  are cropped to the encoder's at strides 4 and 2, and logits are up to a row
  more than the image.

  Fields as in `base.Head`, and

  Attributes:
    channels: channels at strides 4 and 2.
    blocks: number of blocks at each of the two.
    padding: of the transposed convolutions, see `layers.ConvTranspose`, and of
      the others.
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
    """Returns the logits; see `base`.

    Raises:
      ValueError: if the encoder returns fewer than three stages, and what
        `layers.ConvTranspose` raises.
    """
    del dropout_keys  # its blocks have none in the decoder
    if len(features) < 3:
      raise ValueError(
        f'the encoder returns {len(features)} stages; this head needs those of '
        'strides 2, 4 and 8'
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
      # Not by an index: what quantises takes that for a gather.
      for axis, size in ((1, height), (2, width)):
        x = jax.lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
      x = layers.BatchNorm(
        self.layer_kwargs['norm'], 'relu', self.options, name=f'up{i}_norm'
      )(x, train)
      for j in range(self.blocks):
        x = factorized.NonBottleneck1D(
          1,
          padding=self.padding,
          name=f'decoder{i}_block{j}',
          **self.layer_kwargs,
        )(x, train)
    logits = layers.ConvTranspose(
      self.num_classes,
      kernel=2,
      use_bias=True,
      options=dataclasses.replace(self.options, dtype='float32'),
      kernel_init=nn.initializers.glorot_uniform(),
      name='classifier',
    )(x)
    return (logits,)
