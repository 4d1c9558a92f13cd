"""Atrous spatial pyramid pooling, and the convolutions that heads share.

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

import dataclasses
from typing import Any
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers

Array = jax.Array


def conv3x3(
  features: int, *, separable: bool, depthwise_norm: bool, **fields: Any
) -> layers.ConvBN | layers.SeparableConvBN:
  """Returns a 3x3 convolution with BatchNorm and ReLU, of either kind.

  Args:
    features: output channels.
    separable: depthwise-separable instead of dense.
    depthwise_norm: see `layers.SeparableConvBN`; unused if dense.
    **fields: those that both kinds have.
  """
  if separable:
    return layers.SeparableConvBN(
      features, depthwise_norm=depthwise_norm, **fields
    )
  return layers.ConvBN(features, kernel=3, **fields)


class ASPP(nn.Module):
  """Maps [B, h, w, C] to [B, h, w, channels].

  Attributes:
    norm: BatchNorm constants.
    channels: channels of each branch and of the result.
    rates: atrous rate of each 3x3 branch; may be empty.
    separable: 3x3 branches are depthwise-separable instead of dense.
    depthwise_norm: see `layers.SeparableConvBN`.
    image_pooling: adds the branch of the mean over the whole map.
    projection_kernel: kernel size of the convolution after the concatenation.
    dropout: share of units dropped after the projection.
    refine: kind of the 3x3 convolution that follows: 'none', 'dense' or
      'separable'.
    align_corners: see `layers.resize`; without effect on the values here,
      since a 1x1 map becomes a constant one either way.
    options: what the model's layers share.

  Raises:
    ValueError: for a rate below 1 or an unknown `refine`; in training, if the
      BatchNorm of the pooled branch would see a single value a channel.
  """

  norm: layers.Norm
  channels: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  separable: bool = False
  depthwise_norm: bool = True
  image_pooling: bool = True
  projection_kernel: int = 1
  dropout: float = 0.1
  refine: Literal['none', 'dense', 'separable'] = 'none'
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
    shared: dict[str, Any] = {'norm': self.norm, 'options': self.options}
    branches = []
    if self.image_pooling:
      branches.append(self._pool(x, train))
    branches.append(
      layers.ConvBN(self.channels, **shared, name='conv')(x, train)
    )
    for i, rate in enumerate(self.rates):
      branch = conv3x3(
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
    return conv3x3(
      self.channels,
      separable=self.refine == 'separable',
      depthwise_norm=self.depthwise_norm,
      **shared,
      name='refine',
    )(x, train)

  def _pool(self, x: Array, train: bool) -> Array:
    """Returns the image-level branch, [B, h, w, channels]."""
    if train and not self.is_initializing():
      self._check_batch(x.shape[0])
    size = x.shape[1:3]
    pooled = x.astype(jnp.float32)
    if train:
      pooled = jnp.mean(pooled, axis=(1, 2), keepdims=True)
    else:
      # The same number, but one AVERAGE_POOL_2D in an exported graph. Its
      # gradient costs (h * w) ** 2, hence the mean above.
      pooled = nn.pool(pooled, 0.0, jax.lax.add, size, None, 'VALID')
      pooled = pooled / float(size[0] * size[1])
    pooled = layers.ConvBN(
      self.channels, norm=self.norm, options=self.options, name='pool'
    )(pooled.astype(x.dtype), train)
    return layers.resize(pooled, size, self.align_corners)

  def _check_batch(self, batch: int) -> None:
    """Raises ValueError where BatchNorm would see one value a channel."""
    axis = self.options.axis_name
    devices = 1 if axis is None else jax.lax.axis_size(axis)
    if batch * devices == 1:
      raise ValueError(
        'image pooling leaves one value a channel an image, and BatchNorm '
        'cannot train on a batch of 1: raise batch_size to 2 or more a '
        'device, or train on several devices, over which BatchNorm averages'
      )


def classifier(num_classes: int, options: layers.Options) -> layers.Conv:
  """Returns the 1x1 convolution to logits, computed in float32.

  It has a bias. Its kernel starts as wide as segmentation_models.pytorch's
  (Glorot), not from the N(0, 0.01) of TF DeepLab and mmsegmentation: the first
  steps of an adaptive optimiser outweigh so narrow a start, all features turn
  one way, and rare classes are left where every ReLU is off.
  """
  return layers.Conv(
    num_classes,
    use_bias=True,
    options=dataclasses.replace(options, dtype='float32'),
    kernel_init=nn.initializers.glorot_uniform(),
    name='classifier',
  )
