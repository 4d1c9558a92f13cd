"""GhostNet.

Han et al., "GhostNet: More Features from Cheap Operations" (2020,
arXiv:1911.11907), table 1. The defaults are Paddle's; the authors' own code,
which timm follows, has gate='hard_sigmoid' and squeeze='divisible'.

Modules: `stem`, `block_0` .. (Paddle's numbers), and `top` if asked for. A
block has `ghost_1` and `ghost_2`, each with `primary` and `cheap`, `depthwise`
where it has a stride, perhaps `squeeze_excite` (`reduce` and `expand`), and
`shortcut_depthwise` and `shortcut_project` where it changes shape.
"""

from collections.abc import Sequence
import functools
from typing import Literal
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import attention
from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models.encoders import contract
from deeplab.models.encoders import mobilenet_v2

Array = jax.Array

# Paddle initializes linear layers uniformly within 1 / sqrt(inputs).
_SQUEEZE_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')

STEM_CHANNELS = 16


class BlockSpec(NamedTuple):
  """One bottleneck: a row of the paper's table."""

  kernel: int
  expanded: int
  channels: int
  squeeze: bool
  stride: int


BLOCKS: tuple[BlockSpec, ...] = (
  BlockSpec(3, 16, 16, False, 1),
  BlockSpec(3, 48, 24, False, 2),
  BlockSpec(3, 72, 24, False, 1),
  BlockSpec(5, 72, 40, True, 2),
  BlockSpec(5, 120, 40, True, 1),
  BlockSpec(3, 240, 80, False, 2),
  BlockSpec(3, 200, 80, False, 1),
  BlockSpec(3, 184, 80, False, 1),
  BlockSpec(3, 184, 80, False, 1),
  BlockSpec(3, 480, 112, True, 1),
  BlockSpec(3, 672, 112, True, 1),
  BlockSpec(5, 672, 160, True, 2),
  BlockSpec(5, 960, 160, False, 1),
  BlockSpec(5, 960, 160, True, 1),
  BlockSpec(5, 960, 160, False, 1),
  BlockSpec(5, 960, 160, True, 1),
)

TINY_BLOCKS: tuple[BlockSpec, ...] = (
  BlockSpec(3, 16, 16, False, 1),
  BlockSpec(3, 24, 24, False, 2),
  BlockSpec(5, 40, 24, True, 1),
  BlockSpec(5, 40, 32, True, 2),
  BlockSpec(3, 48, 40, False, 2),
  BlockSpec(3, 56, 48, True, 1),
  BlockSpec(5, 64, 56, False, 2),
  BlockSpec(5, 64, 56, True, 1),
)


class GhostModule(nn.Module):
  """A 1x1 ConvBN makes half of the channels; a depthwise ConvBN of it the rest.

  Attributes:
    features: output channels, an even number.
    rate: atrous rate of the depthwise layer.
    activation: activation after both layers.
    norm: BatchNorm constants.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  features: int
  rate: int
  activation: str
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to [B, H, W, features]."""
    half = self.features // 2
    conv_bn = functools.partial(
      layers.ConvBN,
      half,
      norm=self.norm,
      activation=self.activation,
      options=self.options,
    )
    primary = conv_bn(name='primary')(x, train)
    cheap = conv_bn(
      kernel=3,
      rate=self.rate,
      groups=half,
      padding=self.padding,
      name='cheap',
    )(primary, train)
    return jnp.concatenate([primary, cheap], axis=-1)


class GhostBottleneck(nn.Module):
  """Two ghost modules with a depthwise layer between, and a shortcut.

  Attributes:
    row: the block's kernel size and nominal stride.
    features: output channels.
    expanded: channels between the ghost modules.
    squeezed: channels of the squeeze-and-excitation; 0: there is none.
    gate: one of `attention.GATES`.
    plan: stride and rate of the spatial layers in order: of the first ghost
      module, of `depthwise` and `shortcut_depthwise`, and of the second ghost
      module.
    norm: BatchNorm constants.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  row: BlockSpec
  features: int
  expanded: int
  squeezed: int
  gate: str
  plan: Sequence[output_strides.StrideRate]
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  def _depthwise(self, x: Array, train: bool, name: str) -> Array:
    return layers.ConvBN(
      x.shape[-1],
      self.norm,
      kernel=self.row.kernel,
      stride=self.plan[1].stride,
      rate=self.plan[1].rate,
      groups=x.shape[-1],
      padding=self.padding,
      activation='none',
      options=self.options,
      name=name,
    )(x, train)

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to [B, H', W', features]."""
    ghost_module = functools.partial(
      GhostModule, norm=self.norm, padding=self.padding, options=self.options
    )
    inputs = x
    first, _, second = self.plan
    x = ghost_module(
      self.expanded, first.rate, activation='relu', name='ghost_1'
    )(x, train)
    # By the nominal stride: a removed stride removes no layer.
    if self.row.stride > 1:
      x = self._depthwise(x, train, 'depthwise')
    if self.squeezed:
      x = attention.SqueezeExcite(
        self.squeezed,
        gate=self.gate,
        options=self.options,
        kernel_init=_SQUEEZE_INIT,
        name='squeeze_excite',
      )(x, train)
    x = ghost_module(
      self.features, second.rate, activation='none', name='ghost_2'
    )(x, train)
    if self.row.stride > 1 or inputs.shape[-1] != self.features:
      inputs = self._depthwise(inputs, train, 'shortcut_depthwise')
      inputs = layers.ConvBN(
        self.features,
        self.norm,
        activation='none',
        options=self.options,
        name='shortcut_project',
      )(inputs, train)
    return x + inputs


class GhostNet(nn.Module):
  """GhostNet x1.0 as a feature extractor, with the interface of `contract`.

  Channels 16, 24, 40, 112, 160 at nominal strides 2 .. 32, each stage's last
  block. The class attribute `rows` is its table. Squeeze-and-excitation reads
  means over the whole map: at another output stride the gates differ.

  Attributes:
    output_stride: 4, 8, 16 or 32.
    multi_grid: rate factors of the last blocks.
    options: compute options of the whole model.
    alpha: width multiplier; channels are multiples of 4.
    squeeze: a quarter of the expanded channels, 'exact' or 'divisible' by 4.
    gate: one of `attention.GATES`.
    padding: one of `layers.Padding`.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
    top_conv: ends with the 1x1 layer of 960 channels of classifiers.
  """

  rows = BLOCKS  # a class attribute, not a field of the config

  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()
  alpha: float = 1.0
  squeeze: Literal['exact', 'divisible'] = 'exact'
  gate: str = 'clip'
  padding: layers.Padding = 'symmetric'
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-5
  top_conv: bool = False

  def _check(self) -> None:
    """Raises ValueError where fields are unknown."""
    contract.check_choice('squeeze', self.squeeze, ('exact', 'divisible'))
    contract.check_choice('gate', self.gate, tuple(attention.GATES))
    if self.alpha <= 0:
      raise ValueError(f'alpha={self.alpha} must be positive')

  def _scale(self, channels: int) -> int:
    return mobilenet_v2.make_divisible(channels * self.alpha, 4)

  def _squeezed(self, row: BlockSpec) -> int:
    """Returns the squeezed channels of a block, 0 if it squeezes nothing."""
    if not row.squeeze:
      return 0
    quarter = self._scale(row.expanded) // 4
    if self.squeeze == 'exact':
      return quarter
    return mobilenet_v2.make_divisible(quarter, 4)

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    self._check()
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    nominal = [2]
    for row in self.rows:
      nominal += [1, row.stride, 1]
    plan = output_strides.atrous(
      nominal,
      self.output_stride,
      [factor for factor in self.multi_grid for _ in range(3)],
    )
    x = layers.ConvBN(
      self._scale(STEM_CHANNELS),
      norm,
      kernel=3,
      stride=plan[0].stride,
      padding=self.padding,
      options=self.options,
      name='stem',
    )(images, train)
    features: list[Array] = []
    for i, row in enumerate(self.rows):
      if row.stride > 1:
        features.append(x)
      x = self.options.maybe_remat(GhostBottleneck, len(features))(
        row,
        self._scale(row.channels),
        self._scale(row.expanded),
        self._squeezed(row),
        self.gate,
        plan[3 * i + 1 : 3 * i + 4],
        norm,
        self.padding,
        self.options,
        name=f'block_{i}',
      )(x, train)
    if self.top_conv:
      x = layers.ConvBN(
        self._scale(self.rows[-1].expanded),
        norm,
        options=self.options,
        name='top',
      )(x, train)
    return (*features, x)


class GhostNetTiny(GhostNet):
  """Eight narrow blocks, for tests: every kind of block that the full one has.

  Channels 8, 12, 16, 24, 28 at nominal strides 2 .. 32.
  """

  rows = TINY_BLOCKS

  alpha: float = 0.5
