"""Aligned Xception-41, 65 and 71, the large encoders of TF DeepLab.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic
Image Segmentation", 2018, figure 4 (65 layers); TensorFlow's
`research/deeplab/core/xception.py` (all three). Strided separable convolutions
replace max pooling, and all padding is fixed and symmetric (`conv2d_same`), so
the sampling grid is the same at any input size.

Modules: `stem_1`, `stem_2`, `entry_1` .. , `middle_1` .. , `exit_1`, `exit_2`;
a block has `separable_1` .. `separable_3`, each with `depthwise` and
`pointwise`, and `shortcut` where it changes shape.
"""

from collections.abc import Sequence
from typing import Literal
from typing import NamedTuple

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models.encoders import contract

Array = jax.Array
Shortcut = Literal['conv', 'sum', 'none']


class BlockSpec(NamedTuple):
  """One row of the network's table, with the fields of `XceptionBlock`."""

  name: str
  features: tuple[int, ...]
  stride: int  # nominal, of the third separable convolution
  shortcut: Shortcut
  pre_activation: bool = True


class XceptionBlock(nn.Module):
  """Three separable convolutions and a shortcut; Xception's unit.

  Attributes:
    features: output channels of each separable convolution.
    plan: stride and rate of each; the shortcut has the last one's stride.
    shortcut: 'conv' adds a 1x1 projection of the input, 'sum' the input,
      'none' nothing.
    pre_activation: ReLU before each separable convolution and none in it; if
      False, a ReLU after each of its two layers instead.
    norm: BatchNorm constants.
    options: compute options of the whole model.
  """

  features: Sequence[int]
  plan: Sequence[output_strides.StrideRate]
  shortcut: Shortcut
  pre_activation: bool
  norm: layers.BatchNormConfig
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
    """Maps [B, H, W, C] to the output and the second convolution's map.

    Only the third convolution has a stride, so the second's map is the last at
    the input's resolution.
    """
    inputs, maps = x, []
    activation = 'none' if self.pre_activation else 'relu'
    for i, (features, layer) in enumerate(
      zip(self.features, self.plan, strict=True), start=1
    ):
      if self.pre_activation:
        x = layers.shared_relu(x)
      x = layers.SeparableConvBN(
        features,
        self.norm,
        stride=layer.stride,
        rate=layer.rate,
        padding='symmetric',
        depthwise_activation=activation,
        activation=activation,
        options=self.options,
        name=f'separable_{i}',
      )(x, train)
      maps.append(x)
    if self.shortcut == 'sum':
      x = x + inputs
    elif self.shortcut == 'conv':
      x = x + layers.ConvBN(
        self.features[-1],
        self.norm,
        stride=self.plan[-1].stride,
        padding='symmetric',
        activation='none',
        options=self.options,
        name='shortcut',
      )(inputs, train)
    return x, maps[1]


class Xception(nn.Module):
  """Aligned Xception as a feature extractor, with the interface of `contract`.

  Every entry but the last, at nominal stride s, is the input of the strided
  convolution that ends stride s: the map of the second separable convolution of
  that block, linear after its BatchNorm. At stride 4 this is the map that TF
  DeepLab's decoder reads (`separable_conv2_pointwise`, 256 channels). The last
  entry is the output of `exit_2`.

  Attributes:
    output_stride: 4, 8, 16 or 32.
    multi_grid: rate factors of the three separable convolutions of `exit_2`.
    options: compute options of the whole model.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
    stem: channels of the two 3x3 layers; the first has stride 2.
    entry: (channels, stride) of each block of the entry flow, whose strides
      multiply to 8.
    middle: number of blocks in the middle flow.
    exit: channels of the separable convolutions of `exit_1` (stride 2) and
      `exit_2`.
  """

  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()
  bn_decay: float = 0.9997
  bn_epsilon: float = 1e-3
  stem: tuple[int, int] = (32, 64)
  entry: tuple[tuple[int, int], ...] = ((128, 2), (256, 2), (728, 2))
  middle: int = 16
  exit: tuple[tuple[int, ...], ...] = ((728, 1024, 1024), (1536, 1536, 2048))

  def _check(self) -> None:
    """Raises ValueError where a field has the wrong length or value."""
    strides = [stride for _, stride in self.entry if stride != 1]
    if strides != [2, 2, 2]:
      raise ValueError(
        f'entry={self.entry} must hold three blocks of stride 2 and no other '
        'stride but 1'
      )
    if [len(channels) for channels in self.exit] != [3, 3]:
      raise ValueError(f'exit={self.exit} must be two triples of channels')
    if len(self.multi_grid) != 3:
      raise ValueError(
        f'multi_grid={tuple(self.multi_grid)} must hold three factors, one for '
        'each separable convolution of exit_2'
      )

  def _block_specs(self) -> list[BlockSpec]:
    """Returns the blocks of the entry, middle and exit flow."""
    width = self.entry[-1][0]
    entry = [
      BlockSpec(f'entry_{i}', (channels,) * 3, stride, 'conv')
      for i, (channels, stride) in enumerate(self.entry, start=1)
    ]
    middle = [
      BlockSpec(f'middle_{i}', (width,) * 3, 1, 'sum')
      for i in range(1, self.middle + 1)
    ]
    return [
      *entry,
      *middle,
      BlockSpec('exit_1', tuple(self.exit[0]), 2, 'conv'),
      BlockSpec('exit_2', tuple(self.exit[1]), 1, 'none', pre_activation=False),
    ]

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    self._check()
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    blocks = self._block_specs()
    nominal = [2, 1]
    for block in blocks:
      nominal += [1, 1, block.stride]
    plan = output_strides.atrous(nominal, self.output_stride, self.multi_grid)

    x = images
    for i, channels in enumerate(self.stem):
      x = layers.ConvBN(
        channels,
        norm,
        kernel=3,
        stride=plan[i].stride,
        padding='symmetric',
        options=self.options,
        name=f'stem_{i + 1}',
      )(x, train)

    features: list[Array] = []
    for i, block in enumerate(blocks):
      x, unstrided = self.options.maybe_remat(XceptionBlock, len(features))(
        block.features,
        plan[3 * i + 2 : 3 * i + 5],
        block.shortcut,
        block.pre_activation,
        norm,
        self.options,
        name=block.name,
      )(x, train)
      if block.stride > 1:
        features.append(unstrided)
    return (*features, x)


class Xception41(Xception):
  """Xception-41: eight middle blocks."""

  middle: int = 8


class Xception65(Xception):
  """Xception-65: sixteen middle blocks, and 128 .. 2048 channels."""

  middle: int = 16


class Xception71(Xception):
  """Xception-71: an entry flow of five blocks, two of them without a stride.

  So the map at stride 4 comes from the third block, `entry_3`.
  """

  entry: tuple[tuple[int, int], ...] = (
    *((128, 2), (256, 1), (256, 2)),
    *((728, 1), (728, 2)),
  )
  middle: int = 16


class XceptionTiny(Xception):
  """One middle block and few channels, for tests."""

  bn_decay: float = 0.9
  stem: tuple[int, int] = (4, 8)
  entry: tuple[tuple[int, int], ...] = ((8, 2), (12, 2), (16, 2))
  middle: int = 1
  exit: tuple[tuple[int, ...], ...] = ((16, 16, 24), (24, 24, 32))
