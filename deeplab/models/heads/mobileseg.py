"""The MobileSeg head of PaddleSeg: pooled context, and a decoder of additions.

PaddleSeg's `mobileseg.py` with its `UAFMMobile` fusion and the constants of the
published Cityscapes models. The means over 1, 4 and 16 cells of the last map
are the context; each finer map is added to it in turn. In training every level
of the decoder has logits and a loss of its own, of equal weight: set
`loss.auxiliary_weight` to 1.
"""

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models import pooling
from deeplab.models.heads import base

Array = jax.Array


class MobileSeg(base.Head):
  """Maps feature maps to logits [B, h, w, num_classes] of the finest map used.

  In training, the logits of each coarser level follow, finest first.

  Fields of `base.Head`, and

  Attributes:
    stages: indices of the maps used, fine to coarse; 2, 3, 4 are strides 8, 16
      and 32. With Lite-HRNet they are 1, 2, 3.
    bins: cells per axis of each pooling of the coarsest map.
    context_channels: channels of the pooled context.
    channels: channels of the decoder at each of the `stages`.
    classifier_channels: channels before each classifier.
  """

  stages: tuple[int, ...] = (2, 3, 4)
  bins: tuple[int, ...] = (1, 2, 4)
  context_channels: int = 128
  channels: tuple[int, ...] = (32, 64, 128)
  classifier_channels: int = 32

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits of each level; arguments as in `heads/base.py`.

    Raises:
      ValueError: the `stages` do not ascend or are not among the encoder's, or
        there is not one entry of `channels` for each stage; in training, if the
        BatchNorm of the pooled context would see one value per channel.
    """
    del dropout_keys  # this head has no dropout
    if not self.stages or len(self.stages) != len(self.channels):
      raise ValueError(
        f'stages={self.stages} and channels={self.channels} must be of one '
        'length, 1 or more'
      )
    indices = range(len(features))
    if list(self.stages) != [i for i in indices if i in self.stages]:
      raise ValueError(
        f'stages={self.stages} must ascend and be among the {len(features)} '
        'stages that the encoder returns (0 is the finest)'
      )
    maps = [features[stage] for stage in self.stages]
    y = self._context(maps[-1], train)
    levels: list[Array] = []
    for i in reversed(range(len(maps))):
      x = self._separable(y.shape[-1], f'skip{i}')(maps[i], train)
      y = x + self.resize(y, x.shape[1:3])
      y = self._separable(self.channels[i], f'decoder{i}')(y, train)
      levels.insert(0, y)
    if not train and not self.is_initializing():
      levels = levels[:1]
    return tuple(
      self._classify(y, train, f'auxiliary{i}_' if i else '')
      for i, y in enumerate(levels)
    )

  def _separable(self, features: int, name: str) -> layers.SeparableConvBN:
    """Returns the kind of 3x3 convolution that the head is made of."""
    return self.separable_conv_bn(
      features, depthwise_activation='none', pointwise_bias=True, name=name
    )

  def _context(self, x: Array, train: bool) -> Array:
    """Returns the pooled context, [B, h, w, context_channels]."""
    if train and 1 in self.bins and not self.is_initializing():
      pooling.check_batch_size(x.shape[0], self.options)
    pooled = []
    for i, count in enumerate(self.bins):
      cells = self.conv_bn(
        self.context_channels, use_bias=True, name=f'pool{i}'
      )(pooling.adaptive_average_pool(x, count, train), train)
      pooled.append(self.resize(cells, x.shape[1:3]))
    return self._separable(self.context_channels, 'context')(
      sum(pooled[1:], pooled[0]), train
    )

  def _classify(self, x: Array, train: bool, prefix: str) -> Array:
    """Returns the logits of one level of the decoder."""
    x = self._separable(self.classifier_channels, f'{prefix}conv')(x, train)
    return base.make_classifier(
      self.num_classes,
      self.options,
      use_bias=False,
      name=f'{prefix}classifier',
    )(x)
