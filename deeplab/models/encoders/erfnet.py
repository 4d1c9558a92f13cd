"""ERFNet's encoder.

Romera et al., "ERFNet: Efficient Residual Factorized ConvNet for Real-Time
Semantic Segmentation" (2017), table 1. The dropout of its blocks in training
(0.03 and 0.3 of the channels) is left out, since encoders get no keys for it.

Modules: `down1` .. `down3`, and after the last two their blocks,
`stage2_block1` .. `stage2_block5` and `stage3_block1` .. `stage3_block8`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import factorized
from deeplab.models import layers
from deeplab.models.encoders import contract

Array = jax.Array


class DownsamplerBlock(nn.Module):
  """Halves the map: a strided 3x3 convolution beside 2x2 max pooling.

  Attributes:
    features: output channels; the last ones are the pooled input.
    norm: BatchNorm constants.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  features: int
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), features]."""
    y = layers.Conv(
      self.features - x.shape[-1],
      kernel=3,
      stride=2,
      use_bias=True,
      padding=self.padding,
      options=self.options,
      name='conv',
    )(x)
    pooled = nn.max_pool(x.astype(y.dtype), (2, 2), (2, 2), 'SAME')
    return layers.BatchNorm(self.norm, 'relu', self.options, name='norm')(
      jnp.concatenate([y, pooled], axis=-1), train
    )


class ERFNet(nn.Module):
  """ERFNet's encoder, with the interface of `contract`.

  It ends at stride 8: channels 16, 64, 128 at nominal strides 2, 4, 8.

  Attributes:
    output_stride: must be 8.
    multi_grid: must be ones; the atrous rates are `rates`.
    options: compute options of the whole model.
    channels: channels at strides 2, 4 and 8; each more than the one before,
      the first more than the images have.
    blocks: number of blocks at stride 4.
    rates: atrous rate of each block at stride 8.
    padding: one of `layers.Padding`.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
  """

  output_stride: int = 8
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()
  channels: tuple[int, ...] = (16, 64, 128)
  blocks: int = 5
  rates: tuple[int, ...] = (2, 4, 8, 16, 2, 4, 8, 16)
  padding: layers.Padding = 'symmetric'
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-3

  def _check(self, images: int) -> None:
    """Raises ValueError where fields do not describe a network."""
    if self.output_stride != 8 or any(n != 1 for n in self.multi_grid):
      raise ValueError(
        f'output_stride={self.output_stride} must be 8 and multi_grid='
        f'{tuple(self.multi_grid)} ones: ERFNet has rates of its own'
      )
    widths = (images, *self.channels)
    if len(widths) != 4 or list(widths) != sorted(set(widths)):
      raise ValueError(
        f'channels={tuple(self.channels)} must be three growing numbers above '
        f'{images}, the channels of the images'
      )

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    self._check(images.shape[-1])
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    downsampler = functools.partial(
      DownsamplerBlock, norm=norm, padding=self.padding, options=self.options
    )
    x: Array = images
    features: list[Array] = []
    stages: tuple[tuple[int, ...], ...] = ((), (1,) * self.blocks, self.rates)
    for i, rates in enumerate(stages, start=1):
      x = downsampler(self.channels[i - 1], name=f'down{i}')(x, train)
      for j, rate in enumerate(rates, start=1):
        x = self.options.maybe_remat(factorized.NonBottleneck1D, len(features))(
          rate,
          norm=norm,
          padding=self.padding,
          options=self.options,
          name=f'stage{i}_block{j}',
        )(x, train)
      features.append(x)
    return tuple(features)


class ERFNetTiny(ERFNet):
  """Three blocks and few channels, for tests."""

  channels: tuple[int, ...] = (6, 8, 12)
  blocks: int = 1
  rates: tuple[int, ...] = (2, 4)
