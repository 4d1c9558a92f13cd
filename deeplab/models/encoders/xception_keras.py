"""Xception as first published, with max pooling: the network in Keras.

Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2016,
arXiv:1610.02357, figure 5; `keras.applications.Xception`, to which the features
are equal with `valid_stem=True`. DeepLab's own adaptation to segmentation is in
`xception`.

Modules: `block1_conv1`, `block1_conv2`, then Keras' blocks, `block2` ..
`block14`; a block has `separable_1` .. `separable_3`, each with `depthwise`
and `pointwise`, and `shortcut` where it pools.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models.encoders import contract

Array = jax.Array


def atrous_max_pool(
  x: Array, layer: output_strides.StrideRate, padding: layers.Padding
) -> Array:
  """Returns the maximum over 3x3 pixels that lie `layer.rate` apart.

  Pixels outside the map are ignored instead of padded: a padding value, even
  the lowest, would widen the range of a quantized graph.

  Args:
    x: [B, H, W, C], of any sign.
    layer: stride 2 and rate 1, or stride 1 and any rate.
    padding: position of the windows of stride 2 on maps of even size: centered
      on even rows with 'symmetric', on odd rows with 'same'.

  Returns:
    [B, ceil(H / stride), ceil(W / stride), C].
  """
  if layer.stride == 2:
    pads = layers.explicit_padding(padding, x.shape[1:3], 3, 2, 1)
    if pads == layers.explicit_padding('same', x.shape[1:3], 3, 2, 1):
      return nn.max_pool(x, (3, 3), (2, 2), 'SAME')
    # Edge padding repeats a row that is in the window anyway.
    edge = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode='edge')
    return nn.max_pool(edge, (3, 3), (2, 2))
  for axis in (1, 2):
    # A neighbor outside the map is replaced by the pixel itself.
    rate = min(layer.rate, x.shape[axis])
    first, start = jnp.split(x, [rate], axis)
    end, last = jnp.split(x, [x.shape[axis] - rate], axis)
    before = jnp.concatenate([first, end], axis)
    after = jnp.concatenate([start, last], axis)
    x = jnp.maximum(x, jnp.maximum(before, after))
  return x


class XceptionBlock(nn.Module):
  """Separable convolutions, a shortcut around them, and max pooling.

  Attributes:
    features: output channels of each separable convolution.
    plan: stride and rate of each, then of the pooling if there is one. The
      convolutions have no stride.
    pooled: ends with max pooling, and the shortcut is a 1x1 projection of the
      input with the same stride; otherwise the shortcut is the input.
    shortcut: adds the shortcut.
    pre_activation: a ReLU before each convolution and none after its BatchNorm;
      if False, a ReLU after it instead.
    norm: BatchNorm constants.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  features: Sequence[int]
  plan: Sequence[output_strides.StrideRate]
  pooled: bool
  shortcut: bool
  pre_activation: bool
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
    """Maps [B, H, W, C] to the output and the map before the pooling."""
    inputs = x
    for i, features in enumerate(self.features):
      if self.pre_activation:
        x = layers.shared_relu(x)
      x = layers.SeparableConvBN(
        features,
        self.norm,
        rate=self.plan[i].rate,
        padding=self.padding,
        depthwise_norm=False,
        activation='none' if self.pre_activation else 'relu',
        options=self.options,
        name=f'separable_{i + 1}',
      )(x, train)
    unpooled = x
    if self.pooled:
      x = atrous_max_pool(x, self.plan[-1], self.padding)
      inputs = layers.ConvBN(
        self.features[-1],
        self.norm,
        stride=self.plan[-1].stride,
        padding=self.padding,
        activation='none',
        options=self.options,
        name='shortcut',
      )(inputs, train)
    if self.shortcut:
      x = x + inputs
    return x, unpooled


class BlockSpec(NamedTuple):
  """One block of the network's table, with the fields of `XceptionBlock`."""

  features: tuple[int, ...]
  pooled: bool = False
  shortcut: bool = True
  pre_activation: bool = True


class XceptionKeras(nn.Module):
  """Keras' Xception as a feature extractor, with the interface of `contract`.

  Every entry but the last, at nominal stride s, is the input of the max pooling
  that ends stride s, linear after its BatchNorm: Keras' `block2_sepconv2_bn`,
  `block3_sepconv2_bn`, `block4_sepconv2_bn` and `block13_sepconv2_bn`. The last
  is the output of `block14`. Channels 128, 256, 728, 1024, 2048 at nominal
  strides 2 .. 32.

  Where a stride is removed, the pooling has stride 1 and, behind another
  removed stride, atrous windows: the same weights compute the same function at
  every output stride.

  Attributes:
    output_stride: 4, 8, 16 or 32.
    multi_grid: rate factors of the two separable convolutions of `block14`.
    options: compute options of the whole model.
    padding: one of `layers.Padding`; Keras has 'same'.
    valid_stem: the two 3x3 layers of the stem are not padded, which weights of
      Keras need. Maps are up to three rows smaller than `contract` says, and
      are shifted by as much from the image's center.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
    stem: channels of the two 3x3 layers; the first has stride 2.
    entry: channels of the three blocks of the entry flow.
    middle: number of blocks in the middle flow.
    exit: channels of the separable convolutions of the last two blocks.
  """

  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1)
  options: layers.Options = layers.Options()
  padding: layers.Padding = 'same'
  valid_stem: bool = False
  bn_decay: float = 0.99
  bn_epsilon: float = 1e-3
  stem: tuple[int, int] = (32, 64)
  entry: tuple[int, int, int] = (128, 256, 728)
  middle: int = 8
  exit: tuple[tuple[int, int], ...] = ((728, 1024), (1536, 2048))

  def _block_specs(self) -> list[BlockSpec]:
    """Returns the blocks, from `block2` on."""
    if len(self.entry) != 3 or [len(pair) for pair in self.exit] != [2, 2]:
      raise ValueError(
        f'entry={tuple(self.entry)} must hold three channels and '
        f'exit={tuple(self.exit)} two pairs of channels'
      )
    width = self.entry[-1]
    first, last = self.exit
    return [
      *(BlockSpec((channels,) * 2, pooled=True) for channels in self.entry),
      *(BlockSpec((width,) * 3) for _ in range(self.middle)),
      BlockSpec(tuple(first), pooled=True),
      BlockSpec(tuple(last), shortcut=False, pre_activation=False),
    ]

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    contract.check_choice('padding', self.padding, ('same', 'symmetric'))
    uneven = any(factor != 1 for factor in self.multi_grid)
    if uneven and len(self.multi_grid) > 2:
      raise ValueError(
        f'multi_grid={tuple(self.multi_grid)} must hold at most two factors, '
        'one for each separable convolution of block14'
      )
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    blocks = self._block_specs()
    nominal = [2, 1]
    for block in blocks:
      nominal += [1] * len(block.features) + [2] * block.pooled
    plan = list(
      output_strides.atrous(nominal, self.output_stride, self.multi_grid)
    )

    x = images
    for i, channels in enumerate(self.stem):
      x = layers.ConvBN(
        channels,
        norm,
        kernel=3,
        stride=plan.pop(0).stride,
        padding=layers.NO_PADDING if self.valid_stem else self.padding,
        options=self.options,
        name=f'block1_conv{i + 1}',
      )(x, train)

    features: list[Array] = []
    for number, block in enumerate(blocks, start=2):
      count = len(block.features) + block.pooled
      block_plan, plan = plan[:count], plan[count:]
      x, unpooled = self.options.maybe_remat(XceptionBlock, len(features))(
        plan=block_plan,
        norm=norm,
        padding=self.padding,
        options=self.options,
        name=f'block{number}',
        **block._asdict(),
      )(x, train)
      if block.pooled:
        features.append(unpooled)
    return (*features, x)


class XceptionKerasTiny(XceptionKeras):
  """One middle block and few channels, for tests."""

  bn_decay: float = 0.9
  stem: tuple[int, int] = (4, 8)
  entry: tuple[int, int, int] = (8, 12, 16)
  middle: int = 1
  exit: tuple[tuple[int, int], ...] = ((16, 24), (24, 32))
