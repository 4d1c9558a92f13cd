"""The U-Net decoder: upsample by two, concatenate the finer map, convolve.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image
Segmentation" (2015, arXiv:1505.04597), in the form that it takes behind a
pretrained encoder: segmentation_models.pytorch's `UnetDecoder` with its default
widths and bilinear upsampling.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models.heads import base

Array = jax.Array


class UNet(base.Head):
  """Maps feature maps to logits [B, h, w, num_classes], finer than the maps.

  Fields of `base.Head`, and

  Attributes:
    channels: channels of each decoder stage. The stages read the finer maps
      from coarse to fine; one more doubles the map of stride 2, to the image's
      own size where that is even. Fewer stages end at a coarser map.
    convs: number of 3x3 ConvBN layers in a decoder stage.
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
    """Computes the logits, one entry; arguments as in `heads/base.py`.

    Raises:
      ValueError: there are more `channels` than feature maps.
    """
    del dropout_keys  # this head has no dropout
    x, skips = features[-1], features[-2::-1]
    if len(self.channels) > len(features):
      raise ValueError(
        f'channels={self.channels} has {len(self.channels)} decoder stages, '
        f'more than the {len(features)} stages that the encoder returns'
      )
    for i, channels in enumerate(self.channels):
      if i < len(skips):
        x = self.resize(x, skips[i].shape[1:3])
        x = jnp.concatenate([x, skips[i]], axis=-1)
      else:
        size = (2 * x.shape[1], 2 * x.shape[2])
        x = self.resize(x, size)
      for j in range(self.convs):
        x = self.conv_bn(channels, kernel=3, name=f'decoder{i}_conv{j}')(
          x, train
        )
    logits = base.make_classifier(
      self.num_classes, self.options, kernel=self.classifier_kernel
    )(x)
    return (logits,)
