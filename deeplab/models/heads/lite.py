"""Texas Instruments' lite decoders: DeepLabV3Lite, UNetLite and FPNLite.

The decoders of edgeai-torchvision (`pixel2pixel/*_edgeailite.py`), made for
embedded processors: a depthwise-separable pyramid without image pooling, and
3x3 layers that are all depthwise, or of groups of a few channels with RegNetX
encoders (`group_size` 16, 24 or 48), whose processors prefer them. Their
MobileNetV2 has ReLU in place of ReLU6 (the 1.4 times wider one ReLU6) and, for
DeepLabV3Lite, keeps stride 16 without atrous layers.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models.heads import base

Array = jax.Array


class LiteHead(base.Head):
  """What the three decoders share: fields as in `base.Head`, and

  Attributes:
    channels: channels of the pyramid.
    rates: atrous rate of each of its 3x3 branches.
    dropout: share of the channels of its branches dropped before they are
      projected.
    group_size: channels a group of all 3x3 convolutions; 1 is depthwise.
    activation: 'relu' or 'relu6'.
  """

  channels: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  dropout: float = 0.2
  group_size: int = 1
  activation: str = 'relu'

  @property
  def conv_bn_kwargs(self) -> dict[str, Any]:
    """The fields of every ConvBN with an activation."""
    return self.layer_kwargs | {'activation': self.activation}

  @property
  def separable_kwargs(self) -> dict[str, Any]:
    """The fields of every SeparableConvBN."""
    return self.conv_bn_kwargs | {
      'depthwise_activation': self.activation,
      'group_size': self.group_size,
    }

  def apply_aspp(self, x: Array, train: bool, keys: Array | None) -> Array:
    """Maps the last stage's map to [B, h, w, channels]; ASPP's lite form.

    Raises:
      ValueError: for an unknown activation.
    """
    if self.activation not in ('relu', 'relu6'):
      raise ValueError(
        f"activation={self.activation!r} is not one of ('relu', 'relu6')"
      )
    branches = [
      layers.ConvBN(self.channels, **self.conv_bn_kwargs, name='aspp_conv')(
        x, train
      )
    ]
    for i, rate in enumerate(self.rates):
      branch = layers.SeparableConvBN(
        self.channels,
        rate=rate,
        **self.separable_kwargs,
        name=f'aspp_atrous{i}',
      )
      branches.append(branch(x, train))
    x = jnp.concatenate(branches, axis=-1)
    keys = layers.fold_keys(keys if train else None, 0)
    x = layers.dropout(x, self.dropout, keys, drop_channels=True)
    return layers.ConvBN(
      self.channels, **self.conv_bn_kwargs, name='aspp_projection'
    )(x, train)

  def classify(self, x: Array, train: bool) -> tuple[Array, ...]:
    """Returns the logits of the last map: a linear 3x3 layer and a 1x1."""
    x = layers.ConvBN(
      x.shape[-1],
      kernel=3,
      groups=x.shape[-1] // self.group_size,
      activation='none',
      **self.layer_kwargs,
      name='smooth',
    )(x, train)
    return (
      base.make_classifier(self.num_classes, self.options, use_bias=False)(x),
    )


class DeepLabV3Lite(LiteHead):
  """Maps stage maps to logits [B, h, w, num_classes] of the low-level size.

  Fields as in `LiteHead`, and

  Attributes:
    low_level_stage: index of the low-level map in the features; 1 is stride 4.
    low_level_channels: channels it is reduced to.
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
    """Returns the logits; see `base`."""
    low = base.select_low_level_features(features, self.low_level_stage)
    x = self.apply_aspp(features[-1], train, dropout_keys)
    low = layers.ConvBN(
      self.low_level_channels, **self.conv_bn_kwargs, name='low_level'
    )(low, train)
    x = self.resize(x, low.shape[1:3])
    return self.classify(jnp.concatenate([x, low], axis=-1), train)


class UNetLite(LiteHead):
  """Maps stage maps to logits [B, h, w, num_classes] of the finest map's size.

  Each finer map is concatenated and mixed to as many channels as it has, or
  twice the number of classes, or 32, whatever is most. Fields as in `LiteHead`,
  and

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
    """Returns the logits; see `base`."""
    base.select_low_level_features(features, self.low_level_stage)
    x = self.apply_aspp(features[-1], train, dropout_keys)
    for i in reversed(range(self.low_level_stage, len(features) - 1)):
      low = features[i]
      x = self.resize(x, low.shape[1:3])
      x = layers.SeparableConvBN(
        max(32, 2 * self.num_classes, low.shape[-1]),
        **self.separable_kwargs,
        name=f'decoder{i}',
      )(jnp.concatenate([x, low], axis=-1), train)
    return self.classify(x, train)


class FPNLite(LiteHead):
  """Maps stage maps to logits [B, h, w, num_classes] of the finest map's size.

  Each finer map is brought to `channels` and added, and the sum is mixed.
  Fields as in `LiteHead`, and

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
    """Returns the logits; see `base`."""
    base.select_low_level_features(features, self.low_level_stage)
    x = self.apply_aspp(features[-1], train, dropout_keys)
    for i in reversed(range(self.low_level_stage, len(features) - 1)):
      low = layers.ConvBN(
        self.channels, **self.conv_bn_kwargs, name=f'lateral{i}'
      )(features[i], train)
      x = low + self.resize(x, low.shape[1:3])
      x = layers.SeparableConvBN(
        self.channels, **self.separable_kwargs, name=f'decoder{i}'
      )(x, train)
    return self.classify(x, train)
