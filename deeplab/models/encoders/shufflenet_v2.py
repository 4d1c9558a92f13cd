"""ShuffleNetV2.

Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design" (2018, arXiv:1807.11164), table 5. torchvision and Paddle agree on it;
padding is symmetric in both.

Modules: `stem`, `unit_0` .. (Paddle's numbers), each with `expand`, `depthwise`
and `project`, and where it has a stride `shortcut_depthwise` and
`shortcut_project`; and `top` if asked for.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models import pooling
from deeplab.models.encoders import contract

Array = jax.Array

TOP_CHANNELS = 1024


def interleave_channels(first: Array, second: Array) -> Array:
  """Interleaves the channels of two maps: first 0, second 0, first 1, ...

  This is the channel shuffle of the two maps' concatenation, in two groups,
  without tensors of rank 5, which NPU compilers reject.

  Args:
    first: [B, H, W, C].
    second: [B, H, W, C].

  Returns:
    [B, H, W, 2 C].
  """
  batch, height, width, channels = first.shape
  flat = (batch, height * width, channels)
  x = jnp.stack([first.reshape(flat), second.reshape(flat)], axis=-1)
  return x.reshape(batch, height, width, 2 * channels)


class ShuffleUnit(nn.Module):
  """Two branches, their channels interleaved; the paper's figure 3 c and d.

  Attributes:
    features: output channels, half of them from each branch.
    stride: nominal stride. Above 1 both branches read the whole input; at 1
      one branch is the first half of the input's channels and the other reads
      the second half.
    layer: stride and rate of the depthwise layers.
    norm: BatchNorm constants.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  features: int
  stride: int
  layer: output_strides.StrideRate
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  def _depthwise(self, x: Array, train: bool, name: str) -> Array:
    return layers.ConvBN(
      x.shape[-1],
      self.norm,
      kernel=3,
      stride=self.layer.stride,
      rate=self.layer.rate,
      groups=x.shape[-1],
      padding=self.padding,
      activation='none',
      options=self.options,
      name=name,
    )(x, train)

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to [B, H', W', features]."""
    pointwise = functools.partial(
      layers.ConvBN, self.features // 2, norm=self.norm, options=self.options
    )
    if self.stride > 1:
      first = self._depthwise(x, train, 'shortcut_depthwise')
      first = pointwise(name='shortcut_project')(first, train)
    else:
      first, x = jnp.split(x, 2, axis=-1)
    x = pointwise(name='expand')(x, train)
    x = self._depthwise(x, train, 'depthwise')
    x = pointwise(name='project')(x, train)
    return interleave_channels(first, x)


class ShuffleNetV2(nn.Module):
  """ShuffleNetV2 x1.0 as a feature extractor, with the interface of `contract`.

  Channels 24 (the stem), 24 (the pooled stem), 116, 232, 464 at nominal
  strides 2 .. 32.

  Attributes:
    output_stride: 4, 8, 16 or 32.
    multi_grid: rate factors of the last units.
    options: compute options of the whole model.
    channels: channels of the stem and the three stages, multiples of 2.
    repeats: units in each stage; the first has stride 2.
    padding: one of `layers.Padding`.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
    top_conv: ends with the 1x1 layer of 1024 channels of classifiers.
  """

  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()
  channels: tuple[int, ...] = (24, 116, 232, 464)
  repeats: tuple[int, ...] = (4, 8, 4)
  padding: layers.Padding = 'symmetric'
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-5
  top_conv: bool = False

  def _check(self) -> None:
    """Raises ValueError where fields do not describe a network."""
    if len(self.repeats) != 3 or min(self.repeats) < 1:
      raise ValueError(
        f'repeats={tuple(self.repeats)} must name at least one unit for each '
        'of the three stages'
      )
    if len(self.channels) != 4 or any(c < 2 or c % 2 for c in self.channels):
      raise ValueError(
        f'channels={tuple(self.channels)} must be four positive even numbers'
      )

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    self._check()
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    # (channels, stride) of each unit.
    units = [
      (channels, 2 if i == 0 else 1)
      for channels, count in zip(self.channels[1:], self.repeats, strict=True)
      for i in range(count)
    ]
    # The stem and the pooling come first, and always have their strides.
    plan = output_strides.atrous(
      [2, 2, *(stride for _, stride in units)],
      self.output_stride,
      self.multi_grid,
    )
    x = layers.ConvBN(
      self.channels[0],
      norm,
      kernel=3,
      stride=2,
      padding=self.padding,
      options=self.options,
      name='stem',
    )(images, train)
    features = [x]
    x = pooling.max_pool(x, self.padding)
    for i, (channels, stride) in enumerate(units):
      if stride > 1:
        features.append(x)
      x = self.options.maybe_remat(ShuffleUnit, len(features))(
        channels,
        stride,
        plan[i + 2],
        norm,
        self.padding,
        self.options,
        name=f'unit_{i}',
      )(x, train)
    if self.top_conv:
      x = layers.ConvBN(TOP_CHANNELS, norm, options=self.options, name='top')(
        x, train
      )
    return (*features, x)


class ShuffleNetV2Tiny(ShuffleNetV2):
  """Five narrow units, for tests."""

  channels: tuple[int, ...] = (8, 12, 16, 24)
  repeats: tuple[int, ...] = (2, 1, 2)
