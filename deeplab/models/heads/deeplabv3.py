"""The DeepLabV3 head: ASPP and a classifier at the encoder's output stride.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation"
(2017, arXiv:1706.05587).

* TF DeepLab (`model.py`): `refine='none'`.
* Its mobile models: `rates=()` besides, that is, image pooling and one 1x1.
* torchvision and segmentation_models.pytorch: `refine='dense'`,
  `rates=(12, 24, 36)`, `aspp_dropout=0.5`.
* mmsegmentation (`ASPPHead`): `projection_kernel=3`, `aspp_dropout=0`,
  `dropout=0.1`.
"""

from typing import Literal

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models.heads import aspp

Array = jax.Array


class DeepLabV3(nn.Module):
  """Maps stage maps to logits [B, h, w, num_classes] of the last stage's size.

  Attributes:
    num_classes: number of classes.
    channels, rates, separable, depthwise_norm, image_pooling,
      projection_kernel, refine: see `aspp.ASPP`.
    aspp_dropout: ASPP's `dropout`.
    dropout: share of units dropped before the classifier.
    bn_decay, bn_epsilon: see `layers.Norm`.
    align_corners: how the head, and the Segmenter its logits, resizes maps;
      see `layers.resize`.
    options: what the model's layers share.
  """

  num_classes: int
  channels: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  separable: bool = False
  depthwise_norm: bool = True
  image_pooling: bool = True
  projection_kernel: int = 1
  refine: Literal['none', 'dense', 'separable'] = 'none'
  aspp_dropout: float = 0.1
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
    """Returns logits; `dropout_keys` are typed keys [B], one an example."""
    keys = dropout_keys if train else None
    x = aspp.ASPP(
      norm=layers.Norm(self.bn_decay, self.bn_epsilon),
      channels=self.channels,
      rates=self.rates,
      separable=self.separable,
      depthwise_norm=self.depthwise_norm,
      image_pooling=self.image_pooling,
      projection_kernel=self.projection_kernel,
      refine=self.refine,
      dropout=self.aspp_dropout,
      align_corners=self.align_corners,
      options=self.options,
      name='aspp',
    )(features[-1], train, layers.fold_keys(keys, 0))
    x = layers.dropout(x, self.dropout, layers.fold_keys(keys, 1))
    return aspp.classifier(self.num_classes, self.options)(x)
