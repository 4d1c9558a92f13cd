"""The FCN head: 3x3 convolutions and a classifier; mostly an auxiliary head.

Long et al., "Fully Convolutional Networks for Semantic Segmentation" (2015,
arXiv:1411.4038), in the form that PSPNet's auxiliary loss made common.

* mmsegmentation: 256 channels (64 with ResNet-18) on the stage of nominal
  stride 16, `dropout_channels=True`.
* torchvision: `channels` is a quarter of the tapped stage's: 256 on ResNet-50's
  stride 16 and 10 on MobileNetV3's stride 8 as an auxiliary head, and 512 on
  the last stage (`stage=4`) as the head of its FCN.
"""

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models.heads import base

Array = jax.Array


class FCN(base.Head):
  """Maps feature maps to logits [B, h, w, num_classes] of the tapped stage.

  Fields of `base.Head`, and

  Attributes:
    stage: index of the tapped stage in the features; 3 is nominal stride 16.
    channels: channels of the convolutions.
    convs: number of 3x3 ConvBN layers.
    dropout: share of units dropped before the classifier.
    dropout_channels: drops whole channels, as PyTorch's Dropout2d does.
  """

  stage: int = 3
  channels: int = 256
  convs: int = 1
  dropout: float = 0.1
  dropout_channels: bool = False

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`.

    Raises:
      ValueError: the encoder returns no map at `stage`.
    """
    if not 0 <= self.stage < len(features):
      raise ValueError(
        f'stage={self.stage} is not one of the {len(features)} stages that '
        'the encoder returns (0 is the finest)'
      )
    x = features[self.stage]
    for i in range(self.convs):
      x = self.conv_bn(self.channels, kernel=3, name=f'conv{i}')(x, train)
    keys = layers.fold_keys(dropout_keys if train else None, 0)
    x = layers.dropout(x, self.dropout, keys, self.dropout_channels)
    return (base.make_classifier(self.num_classes, self.options)(x),)
