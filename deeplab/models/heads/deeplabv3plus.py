"""The DeepLabV3+ head: ASPP, and a decoder that reads a finer map.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic
Image Segmentation" (2018, arXiv:1802.02611). ASPP's result is resized to the
low-level map (stride 4), concatenated with its 1x1 reduction, and mixed by a
few 3x3 convolutions.

* TF DeepLab (`model.py`): the defaults, with `align_corners=True`.
* mmsegmentation (`DepthwiseSeparableASPPHead`): `projection_kernel=3`,
  `channels=decoder_channels=512`, `aspp_dropout=0`, `dropout=0.1`,
  `dropout_channels=True`; with ResNet-18, `channels=decoder_channels=128` and
  `low_level_channels=12`.
* segmentation_models.pytorch: `rates=(12, 24, 36)`, `refine='separable'`,
  `depthwise_norm=False`, `decoder_convs=1`, `aspp_dropout=0.5`,
  `align_corners=True`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models.heads import aspp
from deeplab.models.heads import base

Array = jax.Array


class DeepLabV3Plus(aspp.ASPPHead):
  """Maps feature maps to logits [B, h, w, num_classes] at the low-level size.

  Fields of `aspp.ASPPHead` (`depthwise_norm` holds for the decoder too) and
  `base.Head`, and

  Attributes:
    low_level_stage: index of the low-level map in the features; 1 is stride 4.
    low_level_channels: channels that the low-level map is reduced to.
    decoder_channels: channels of the decoder's convolutions.
    decoder_convs: number of 3x3 convolutions in the decoder.
    decoder_separable: they are depthwise-separable instead of dense.
  """

  separable: bool = True
  low_level_stage: int = 1
  low_level_channels: int = 48
  decoder_channels: int = 256
  decoder_convs: int = 2
  decoder_separable: bool = True

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`.

    Raises:
      ValueError: `low_level_stage` is not a stage before the last.
    """
    low = base.select_low_level_features(features, self.low_level_stage)
    keys = dropout_keys if train else None
    x = self.apply_aspp(features[-1], train, keys)
    low = self.conv_bn(self.low_level_channels, name='low_level')(low, train)
    x = self.resize(x, low.shape[1:3])
    x = jnp.concatenate([x, low], axis=-1)
    for i in range(self.decoder_convs):
      x = aspp.make_conv3x3(
        self.decoder_channels,
        separable=self.decoder_separable,
        depthwise_norm=self.depthwise_norm,
        norm=self.norm,
        options=self.options,
        name=f'decoder{i}',
      )(x, train)
    return (self.classify(x, keys),)
