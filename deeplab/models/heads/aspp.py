"""Atrous spatial pyramid pooling (ASPP), and the base of the heads that use it.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation"
(2017, arXiv:1706.05587): parallel branches look at one feature map at several
scales; their concatenation is projected to `channels`.

Published systems differ in these fields:

    system        rates at OS16   branches    projection  dropout
    TF DeepLab    6, 12, 18       separable   1x1         0.1
    TF mobile     none            -           1x1         0.1
    mmseg         6, 12, 18       both kinds  3x3         none in ASPP
    torchvision   12, 24, 36      dense       1x1         0.5

Rates double at output stride 8. The branches are concatenated in the order
image pooling, 1x1, rates; weights of systems that put the pooling last have
their projection kernels permuted on import.
"""

from collections.abc import Callable
import dataclasses
import functools
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
    depthwise_norm: BatchNorm and ReLU between the depthwise and the 1x1
      convolution; unused if dense.
    use_bias: adds a bias to each convolution.
    **fields: fields that both kinds have.
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


class ASPPFields(nn.Module):
  """The fields that the pyramid and the heads built on it have in common.

  They stand here once: `ASPP` and `ASPPHead` inherit them, and a head hands
  them on by `aspp_fields`.

  Attributes:
    channels: channels of each branch and of the result.
    rates: atrous rate of each 3x3 branch; may be empty.
    separable: 3x3 branches are depthwise-separable instead of dense.
    depthwise_norm: BatchNorm and ReLU inside the separable convolutions.
    image_pooling: adds the branch of the mean over the whole map.
    projection_kernel: kernel size of the convolution after the concatenation.
    refine: kind of the 3x3 convolution that follows the projection: 'none',
      'dense' or 'separable'.
  """

  channels: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  separable: bool = False
  depthwise_norm: bool = True
  image_pooling: bool = True
  projection_kernel: int = 1
  refine: Refine = 'none'

  @property
  def aspp_fields(self) -> dict[str, Any]:
    """The values of these fields by their names."""
    return {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(ASPPFields)
      if field.name not in ('parent', 'name')  # Linen's own
    }


class ASPP(ASPPFields):
  """Maps [B, h, w, C] to [B, h, w, channels].

  Attributes:
    norm: BatchNorm constants.
    use_bias: adds a bias to each convolution, before its BatchNorm.
    dropout: share of units dropped after the projection.
    align_corners: sampling grid of the resize behind image pooling; without
      effect on the values, since a 1x1 map becomes a constant one either way.
    options: compute options of the whole model.

  Raises:
    ValueError: for a rate below 1 or an unknown `refine`; in training, if the
      BatchNorm of the pooled branch would see a single value per channel.
  """

  norm: layers.BatchNormConfig = dataclasses.field(kw_only=True)
  use_bias: bool = False
  dropout: float = 0.1
  align_corners: bool = False
  options: layers.Options = layers.Options()

  @nn.compact
  def __call__(
    self, x: Array, train: bool, dropout_keys: Array | None = None
  ) -> Array:
    """Computes the pyramid of the last feature map.

    Args:
      x: [B, h, w, C].
      train: BatchNorm uses batch statistics, dropout drops.
      dropout_keys: typed PRNG keys [B], one per example; None: no dropout.

    Returns:
      [B, h, w, channels].
    """
    if any(rate < 1 for rate in self.rates):
      raise ValueError(f'rates={self.rates} must all be 1 or more')
    if self.refine not in ('none', 'dense', 'separable'):
      raise ValueError(
        f'refine={self.refine!r} is not one of none, dense, separable'
      )
    conv_bn = functools.partial(
      layers.ConvBN,
      self.channels,
      norm=self.norm,
      use_bias=self.use_bias,
      options=self.options,
    )
    conv3x3 = functools.partial(
      make_conv3x3,
      self.channels,
      depthwise_norm=self.depthwise_norm,
      norm=self.norm,
      use_bias=self.use_bias,
      options=self.options,
    )
    branches = []
    if self.image_pooling:
      branches.append(self._pool_image(x, train, conv_bn))
    branches.append(conv_bn(name='conv')(x, train))
    for i, rate in enumerate(self.rates):
      branch = conv3x3(separable=self.separable, rate=rate, name=f'atrous{i}')
      branches.append(branch(x, train))
    x = jnp.concatenate(branches, axis=-1)
    x = conv_bn(kernel=self.projection_kernel, name='projection')(x, train)
    x = layers.dropout(x, self.dropout, dropout_keys if train else None)
    if self.refine == 'none':
      return x
    separable = self.refine == 'separable'
    return conv3x3(separable=separable, name='refine')(x, train)

  def _pool_image(
    self, x: Array, train: bool, conv_bn: Callable[..., layers.ConvBN]
  ) -> Array:
    """Returns the image-level branch, [B, h, w, channels]."""
    if train and not self.is_initializing():
      pooling.check_batch_size(x.shape[0], self.options)
    pooled = conv_bn(name='pool')(
      pooling.adaptive_average_pool(x, 1, train), train
    )
    return resizing.resize(pooled, x.shape[1:3], self.align_corners)


class ASPPHead(ASPPFields, base.Head):
  """Base class of the DeepLab heads: ASPP, dropout and a classifier.

  Fields of `ASPPFields` and `base.Head`, and

  Attributes:
    aspp_dropout: share of units dropped after ASPP's projection.
    dropout: share of units dropped before the classifier.
    dropout_channels: drops whole channels there, as PyTorch's Dropout2d does.
  """

  aspp_dropout: float = 0.1
  dropout: float = 0.0
  dropout_channels: bool = False

  def apply_aspp(self, x: Array, train: bool, keys: Array | None) -> Array:
    """Computes ASPP of the last stage's map.

    Args:
      x: [B, h, w, C].
      train: BatchNorm uses batch statistics, dropout drops.
      keys: typed PRNG keys [B], one per example; None: no dropout.

    Returns:
      [B, h, w, channels].
    """
    return ASPP(
      **self.aspp_fields,
      norm=self.norm,
      dropout=self.aspp_dropout,
      align_corners=self.align_corners,
      options=self.options,
      name='aspp',
    )(x, train, layers.fold_keys(keys, 0))

  def classify(self, x: Array, keys: Array | None) -> Array:
    """Maps [B, h, w, C] to logits [B, h, w, num_classes].

    Args:
      x: [B, h, w, C], the last map of the head.
      keys: typed PRNG keys [B], one per example; None: no dropout.
    """
    x = layers.dropout(
      x, self.dropout, layers.fold_keys(keys, 1), self.dropout_channels
    )
    return base.make_classifier(self.num_classes, self.options)(x)
