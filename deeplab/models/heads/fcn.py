"""The FCN head: 3x3 convolutions and a classifier; mostly an auxiliary head.

Long et al., "Fully Convolutional Networks for Semantic Segmentation" (2015,
arXiv:1411.4038), in the form that PSPNet's auxiliary loss made common.
mmsegmentation taps the stage of nominal stride 16 with 256 channels;
torchvision the same one with a quarter of its channels. Both drop 0.1.
"""

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models.heads import aspp

Array = jax.Array


class FCN(nn.Module):
  """Maps stage maps to logits [B, h, w, num_classes] of the tapped stage.

  Attributes:
    num_classes: number of classes.
    stage: index of the tapped stage in the features; 3 is nominal stride 16.
    channels: channels of the convolutions.
    convs: how many 3x3 ConvBN there are.
    dropout: share of units dropped before the classifier.
    bn_decay, bn_epsilon: see `layers.Norm`.
    align_corners: how the Segmenter resizes the logits; see `layers.resize`.
    options: what the model's layers share.
  """

  num_classes: int
  stage: int = 3
  channels: int = 256
  convs: int = 1
  dropout: float = 0.1
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
      ValueError: if the encoder returns no map at `stage`.
    """
    if not 0 <= self.stage < len(features):
      raise ValueError(
        f'stage={self.stage} is none of the {len(features)} stages that the '
        'encoder returns (0 is the finest)'
      )
    x = features[self.stage]
    norm = layers.Norm(self.bn_decay, self.bn_epsilon)
    for i in range(self.convs):
      x = layers.ConvBN(
        self.channels,
        kernel=3,
        norm=norm,
        options=self.options,
        name=f'conv{i}',
      )(x, train)
    keys = layers.fold_keys(dropout_keys if train else None, 0)
    x = layers.dropout(x, self.dropout, keys)
    return aspp.classifier(self.num_classes, self.options)(x)
