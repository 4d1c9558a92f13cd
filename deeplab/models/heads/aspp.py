"""Atrous spatial pyramid pooling, and what the heads that start with it share.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation"
(2017, arXiv:1706.05587): parallel branches over one feature map see it at
several scales; their concatenation is projected to `channels`.

What differs between published systems is a field:

    system        rates at OS16   branches    projection  dropout
    TF DeepLab    6, 12, 18       separable   1x1         0.1
    TF mobile     none            -           1x1         0.1
    mmseg         6, 12, 18       both kinds  3x3         none in here
    torchvision   12, 24, 36      dense       1x1         0.5

Rates double at output stride 8. The branches are concatenated in the order
image pooling, 1x1, rates; systems that put the pooling last have their
projection kernels permuted on import.
"""

from typing import Any
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models import pooling
from deeplab.models import resizing
from deeplab.models.heads import base

Array = jax.Array
Refine = Literal['none', 'dense', 'separable']


def make_conv3x3(
  features: int,
  *,
  separable: bool,
  depthwise_norm: bool,
  use_bias: bool = False,
  **fields: Any,
) -> layers.ConvBN | layers.SeparableConvBN:
  """Returns a 3x3 convolution with BatchNorm and ReLU, of either kind.

  Args:
    features: output channels.
    separable: depthwise-separable instead of dense.
    depthwise_norm: see `layers.SeparableConvBN`; unused if dense.
    use_bias: adds a bias to each convolution.
    **fields: those that both kinds have.
  """
  if separable:
    return layers.SeparableConvBN(
      features,
      depthwise_norm=depthwise_norm,
      depthwise_bias=use_bias,
      pointwise_bias=use_bias,
      **fields,
    )
  return layers.ConvBN(features, kernel=3, use_bias=use_bias, **fields)


class ASPP(nn.Module):
  """Maps [B, h, w, C] to [B, h, w, channels].

  Attributes:
    norm: BatchNorm constants.
    channels: channels of each branch and of the result.
    rates: atrous rate of each 3x3 branch; may be empty.
    separable: 3x3 branches are depthwise-separable instead of dense.
    depthwise_norm: see `layers.SeparableConvBN`.
    use_bias: adds a bias to each convolution, before its BatchNorm.
    image_pooling: adds the branch of the mean over the whole map.
    projection_kernel: kernel size of the convolution after the concatenation.
    dropout: share of units dropped after the projection.
    refine: kind of the 3x3 convolution that follows: 'none', 'dense' or
      'separable'.
    align_corners: see `resizing.resize`; without effect on the values here,
      since a 1x1 map becomes a constant one either way.
    options: what the model's layers share.

  Raises:
    ValueError: for a rate below 1 or an unknown `refine`; in training, if the
      BatchNorm of the pooled branch would see a single value a channel.
  """

  norm: layers.BatchNormConfig
  channels: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  separable: bool = False
  depthwise_norm: bool = True
  use_bias: bool = False
  image_pooling: bool = True
  projection_kernel: int = 1
  dropout: float = 0.1
  refine: Refine = 'none'
  align_corners: bool = False
  options: layers.Options = layers.Options()

  @nn.compact
  def __call__(
    self, x: Array, train: bool, dropout_keys: Array | None = None
  ) -> Array:
    """Returns the pyramid of x; see the class for shapes and errors."""
    if any(rate < 1 for rate in self.rates):
      raise ValueError(f'rates={self.rates} holds a rate below 1')
    if self.refine not in ('none', 'dense', 'separable'):
      raise ValueError(
        f'refine={self.refine!r} is not one of none, dense, separable'
      )
    shared: dict[str, Any] = {
      'norm': self.norm,
      'use_bias': self.use_bias,
      'options': self.options,
    }
    branches = []
    if self.image_pooling:
      branches.append(self._image_pooling(x, train, shared))
    branches.append(
      layers.ConvBN(self.channels, **shared, name='conv')(x, train)
    )
    for i, rate in enumerate(self.rates):
      branch = make_conv3x3(
        self.channels,
        separable=self.separable,
        depthwise_norm=self.depthwise_norm,
        rate=rate,
        **shared,
        name=f'atrous{i}',
      )
      branches.append(branch(x, train))
    x = layers.ConvBN(
      self.channels,
      kernel=self.projection_kernel,
      **shared,
      name='projection',
    )(jnp.concatenate(branches, axis=-1), train)
    x = layers.dropout(x, self.dropout, dropout_keys if train else None)
    if self.refine == 'none':
      return x
    return make_conv3x3(
      self.channels,
      separable=self.refine == 'separable',
      depthwise_norm=self.depthwise_norm,
      **shared,
      name='refine',
    )(x, train)

  def _image_pooling(
    self, x: Array, train: bool, shared: dict[str, Any]
  ) -> Array:
    """Returns the image-level branch, [B, h, w, channels]."""
    if train and not self.is_initializing():
      pooling.check_batch_size(x.shape[0], self.options)
    pooled = layers.ConvBN(self.channels, **shared, name='pool')(
      pooling.bins(x, 1, train), train
    )
    return resizing.resize(pooled, x.shape[1:3], self.align_corners)


class ASPPHead(base.Head):
  """What the DeepLab heads share: ASPP's fields, and dropout.

  Attributes:
    channels, rates, separable, depthwise_norm, image_pooling,
      projection_kernel, refine: see `ASPP`.
    aspp_dropout: ASPP's `dropout`.
    dropout: share of units dropped before the classifier.
    dropout_channels: drops whole channels there, as PyTorch's Dropout2d does.
  """

  channels: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  separable: bool = False
  depthwise_norm: bool = True
  image_pooling: bool = True
  projection_kernel: int = 1
  refine: Refine = 'none'
  aspp_dropout: float = 0.1
  dropout: float = 0.0
  dropout_channels: bool = False

  def apply_aspp(self, x: Array, train: bool, keys: Array | None) -> Array:
    """Maps the last stage's map to [B, h, w, channels]."""
    return ASPP(
      channels=self.channels,
      rates=self.rates,
      separable=self.separable,
      depthwise_norm=self.depthwise_norm,
      image_pooling=self.image_pooling,
      projection_kernel=self.projection_kernel,
      refine=self.refine,
      dropout=self.aspp_dropout,
      align_corners=self.align_corners,
      **self.layer_kwargs,
      name='aspp',
    )(x, train, layers.fold_keys(keys, 0))

  def classify(self, x: Array, keys: Array | None) -> Array:
    """Returns the logits [B, h, w, num_classes] of the last map."""
    x = layers.dropout(
      x, self.dropout, layers.fold_keys(keys, 1), self.dropout_channels
    )
    return base.make_classifier(self.num_classes, self.options)(x)
