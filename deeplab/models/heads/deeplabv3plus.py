"""The DeepLabV3+ head: ASPP, and a decoder that adds a finer map.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic
Image Segmentation" (2018, arXiv:1802.02611). ASPP's result is resized to the
low-level map (stride 4), concatenated with its 1x1 reduction, and mixed by a
few 3x3 convolutions.

* TF DeepLab (`model.py`): the defaults, with `align_corners=True`.
* mmsegmentation (`DepthwiseSeparableASPPHead`): `projection_kernel=3`,
  `channels=decoder_channels=512`, `aspp_dropout=0`, `dropout=0.1`.
* segmentation_models.pytorch: `rates=(12, 24, 36)`, `refine='separable'`,
  `depthwise_norm=False`, `decoder_convs=1`, `aspp_dropout=0.5`,
  `align_corners=True`.
"""

from typing import Any
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models.heads import aspp

Array = jax.Array


class DeepLabV3Plus(nn.Module):
  """Maps stage maps to logits [B, h, w, num_classes] of the low-level size.

  Attributes:
    num_classes: number of classes.
    channels, rates, separable, depthwise_norm, image_pooling,
      projection_kernel, refine: see `aspp.ASPP`; `depthwise_norm` holds for
      the decoder too.
    aspp_dropout: ASPP's `dropout`.
    low_level_stage: index of the low-level map in the features; 1 is stride 4.
    low_level_channels: channels it is reduced to.
    decoder_channels: channels of the decoder's convolutions.
    decoder_convs: how many 3x3 convolutions the decoder has.
    decoder_separable: they are depthwise-separable instead of dense.
    dropout: share of units dropped before the classifier.
    bn_decay, bn_epsilon: see `layers.Norm`.
    align_corners: how the head, and the Segmenter its logits, resizes maps;
      see `layers.resize`.
    options: what the model's layers share.
  """

  num_classes: int
  channels: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  separable: bool = True
  depthwise_norm: bool = True
  image_pooling: bool = True
  projection_kernel: int = 1
  refine: Literal['none', 'dense', 'separable'] = 'none'
  aspp_dropout: float = 0.1
  low_level_stage: int = 1
  low_level_channels: int = 48
  decoder_channels: int = 256
  decoder_convs: int = 2
  decoder_separable: bool = True
  dropout: float = 0.0
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-5
  align_corners: bool = False
  options: layers.Options = layers.Options()

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> Array:
    """Returns logits; `dropout_keys` are typed keys [B], one an example.

    Raises:
      ValueError: if no finer map stands at `low_level_stage`.
    """
    if not 0 <= self.low_level_stage < len(features) - 1:
      raise ValueError(
        f'low_level_stage={self.low_level_stage} is not finer than the last '
        f'of the {len(features)} stages that the encoder returns'
      )
    norm = layers.Norm(self.bn_decay, self.bn_epsilon)
    shared: dict[str, Any] = {'norm': norm, 'options': self.options}
    keys = dropout_keys if train else None
    x = aspp.ASPP(
      channels=self.channels,
      rates=self.rates,
      separable=self.separable,
      depthwise_norm=self.depthwise_norm,
      image_pooling=self.image_pooling,
      projection_kernel=self.projection_kernel,
      refine=self.refine,
      dropout=self.aspp_dropout,
      align_corners=self.align_corners,
      **shared,
      name='aspp',
    )(features[-1], train, layers.fold_keys(keys, 0))
    low = layers.ConvBN(self.low_level_channels, **shared, name='low_level')(
      features[self.low_level_stage], train
    )
    x = layers.resize(x, low.shape[1:3], self.align_corners)
    x = jnp.concatenate([x, low], axis=-1)
    for i in range(self.decoder_convs):
      x = aspp.conv3x3(
        self.decoder_channels,
        separable=self.decoder_separable,
        depthwise_norm=self.depthwise_norm,
        **shared,
        name=f'decoder{i}',
      )(x, train)
    x = layers.dropout(x, self.dropout, layers.fold_keys(keys, 1))
    return aspp.classifier(self.num_classes, self.options)(x)
