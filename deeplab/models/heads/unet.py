"""The U-Net decoder: up by two, concatenate the finer map, mix, and again.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image
Segmentation" (2015, arXiv:1505.04597), in the form that it takes behind a
pretrained encoder: segmentation_models.pytorch's `UnetDecoder` with its default
widths and bilinear upsampling.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models.heads import base

Array = jax.Array


class UNet(base.Head):
  """Maps stage maps to logits [B, h, w, num_classes], finer than the stages.

  Fields as in `base.Head`, and

  Attributes:
    channels: channels of each step. Steps take up the finer maps from coarse to
      fine; one more doubles the finest map of stride 2, to the image's own size
      where that is even. Fewer steps end at a coarser map.
    convs: how many 3x3 ConvBN a step has.
    classifier_kernel: kernel size of the convolution to logits.
  """

  channels: tuple[int, ...] = (256, 128, 64, 32, 16)
  convs: int = 2
  classifier_kernel: int = 3

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Returns the logits; see `base`.

    Raises:
      ValueError: for more steps than there are maps.
    """
    del dropout_keys  # it has no dropout
    x, skips = features[-1], features[-2::-1]
    if len(self.channels) > len(features):
      raise ValueError(
        f'channels={self.channels} asks for {len(self.channels)} steps, and '
        f'the encoder returns {len(features)} stages, which allow as many'
      )
    for i, channels in enumerate(self.channels):
      if i < len(skips):
        x = self.resize(x, skips[i].shape[1:3])
        x = jnp.concatenate([x, skips[i]], axis=-1)
      else:
        size = (2 * x.shape[1], 2 * x.shape[2])
        x = self.resize(x, size)
      for j in range(self.convs):
        x = layers.ConvBN(
          channels, kernel=3, **self.layer_kwargs, name=f'decoder{i}_conv{j}'
        )(x, train)
    logits = base.make_classifier(
      self.num_classes, self.options, kernel=self.classifier_kernel
    )(x)
    return (logits,)
