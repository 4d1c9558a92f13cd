"""Texas Instruments' lite decoders: DeepLabV3Lite, UNetLite and FPNLite.

The decoders of edgeai-torchvision (`pixel2pixel/*_edgeailite.py`) for embedded
processors: a depthwise-separable pyramid without image pooling, and 3x3 layers
that are all depthwise, or with RegNetX encoders of groups of a few channels
(`group_size` 16, 24 or 48), which their processors prefer. Their MobileNetV2
has ReLU in place of ReLU6 (the 1.4 times wider one has ReLU6) and keeps stride
16 without atrous layers for DeepLabV3Lite.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models.heads import base

Array = jax.Array


class LiteHead(base.Head):
  """Base class of the three decoders: the lite pyramid and the classifier.

  Fields of `base.Head`, and

  Attributes:
    channels: channels of the pyramid.
    rates: atrous rate of each of its 3x3 branches.
    dropout: share of the branches' channels dropped before the projection.
    group_size: channels per group of all 3x3 convolutions; 1 is depthwise.
    activation: 'relu' or 'relu6'.
  """

  channels: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  dropout: float = 0.2
  group_size: int = 1
  activation: str = 'relu'

  @property
  def conv_bn(self) -> functools.partial[layers.ConvBN]:
    """`layers.ConvBN` with the head's norm, options and activation."""
    return functools.partial(
      layers.ConvBN,
      norm=self.norm,
      activation=self.activation,
      options=self.options,
    )

  @property
  def separable_conv_bn(self) -> functools.partial[layers.SeparableConvBN]:
    """`layers.SeparableConvBN` with the head's fields, groups included."""
    return functools.partial(
      layers.SeparableConvBN,
      norm=self.norm,
      depthwise_activation=self.activation,
      activation=self.activation,
      group_size=self.group_size,
      options=self.options,
    )

  def apply_aspp(self, x: Array, train: bool, keys: Array | None) -> Array:
    """Computes the lite pyramid of the last stage's map.

    Args:
      x: [B, h, w, C].
      train: BatchNorm uses batch statistics, dropout drops.
      keys: typed PRNG keys [B], one per example; None: no dropout.

    Returns:
      [B, h, w, channels].

    Raises:
      ValueError: the activation is unknown.
    """
    if self.activation not in ('relu', 'relu6'):
      raise ValueError(
        f"activation={self.activation!r} is not one of ('relu', 'relu6')"
      )
    branches = [self.conv_bn(self.channels, name='aspp_conv')(x, train)]
    for i, rate in enumerate(self.rates):
      branch = self.separable_conv_bn(
        self.channels, rate=rate, name=f'aspp_atrous{i}'
      )
      branches.append(branch(x, train))
    x = jnp.concatenate(branches, axis=-1)
    keys = layers.fold_keys(keys if train else None, 0)
    x = layers.dropout(x, self.dropout, keys, drop_channels=True)
    return self.conv_bn(self.channels, name='aspp_projection')(x, train)

  def classify(self, x: Array, train: bool) -> tuple[Array, ...]:
    """Maps [B, h, w, C] to logits [B, h, w, num_classes], a tuple of one.

    A linear 3x3 layer smooths the map before the 1x1 classifier.

    Args:
      x: [B, h, w, C], the last map of the decoder.
      train: BatchNorm uses batch statistics.
    """
    x = self.conv_bn(
      x.shape[-1],
      kernel=3,
      groups=x.shape[-1] // self.group_size,
      activation='none',
      name='smooth',
    )(x, train)
    return (
      base.make_classifier(self.num_classes, self.options, use_bias=False)(x),
    )


class DeepLabV3Lite(LiteHead):
  """Maps feature maps to logits [B, h, w, num_classes] at the low-level size.

  Fields of `LiteHead`, and

  Attributes:
    low_level_stage: index of the low-level map in the features; 1 is stride 4.
    low_level_channels: channels that the low-level map is reduced to.
  """

  low_level_stage: int = 1
  low_level_channels: int = 48

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`."""
    low = base.select_low_level_features(features, self.low_level_stage)
    x = self.apply_aspp(features[-1], train, dropout_keys)
    low = self.conv_bn(self.low_level_channels, name='low_level')(low, train)
    x = self.resize(x, low.shape[1:3])
    return self.classify(jnp.concatenate([x, low], axis=-1), train)


class UNetLite(LiteHead):
  """Maps feature maps to logits [B, h, w, num_classes] at the finest size.

  Each finer map is concatenated and mixed to the most of 32 channels, its own
  number of channels, and twice the number of classes. Fields of `LiteHead`, and

  Attributes:
    low_level_stage: index of the finest map in the features; 0 is stride 2.
  """

  low_level_stage: int = 0

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`."""
    base.select_low_level_features(features, self.low_level_stage)
    x = self.apply_aspp(features[-1], train, dropout_keys)
    for i in reversed(range(self.low_level_stage, len(features) - 1)):
      low = features[i]
      x = self.resize(x, low.shape[1:3])
      x = self.separable_conv_bn(
        max(32, 2 * self.num_classes, low.shape[-1]), name=f'decoder{i}'
      )(jnp.concatenate([x, low], axis=-1), train)
    return self.classify(x, train)


class FPNLite(LiteHead):
  """Maps feature maps to logits [B, h, w, num_classes] at the finest size.

  Each finer map is projected to `channels` and added, and the sum is mixed.
  Fields of `LiteHead`, and

  Attributes:
    low_level_stage: index of the finest map in the features; 1 is stride 4.
  """

  low_level_stage: int = 1

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`."""
    base.select_low_level_features(features, self.low_level_stage)
    x = self.apply_aspp(features[-1], train, dropout_keys)
    for i in reversed(range(self.low_level_stage, len(features) - 1)):
      low = self.conv_bn(self.channels, name=f'lateral{i}')(features[i], train)
      x = low + self.resize(x, low.shape[1:3])
      x = self.separable_conv_bn(self.channels, name=f'decoder{i}')(x, train)
    return self.classify(x, train)
