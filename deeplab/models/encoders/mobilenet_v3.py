"""MobileNetV3 Large and Small, as published segmentation models use them.

Howard et al., "Searching for MobileNetV3" (2019, arXiv:1905.02244), tables 1
and 2. Published systems differ in these fields:

    system         fields that differ from the defaults
    torchvision    dilation_rule='torchvision', tap='first'
    Keras          rounding='keras', padding='keras', bn_decay=0.999
    Paddle         expand_always, squeeze='exact', gate='hard_sigmoid_paddle',
                   no top_conv, bn_decay=0.9, bn_epsilon=1e-5
    TF DeepLab     the two *Seg classes

Modules: `stem`, `block_0` .., each with `expand` (not where it would not
widen), `depthwise`, `squeeze_excite` (`reduce` and `expand`) and `project`, and
`top`. Block numbers are Keras' and Paddle's.
"""

import functools
from typing import Literal
from typing import NamedTuple

import flax.linen as nn
import jax

from deeplab.models import attention
from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models.encoders import contract
from deeplab.models.encoders import mobilenet_v2

Array = jax.Array

# He et al. 2015 by fan-out, as in torchvision.
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')

STEM_CHANNELS = 16
TOP_EXPANSION = 6

RELU, SWISH = 'relu', 'hard_swish'


class BlockSpec(NamedTuple):
  """One block: a row of the paper's tables, or of a system's variant."""

  kernel: int
  expanded: int
  channels: int
  squeeze: bool
  activation: str
  stride: int


LARGE: tuple[BlockSpec, ...] = (
  BlockSpec(3, 16, 16, False, RELU, 1),
  BlockSpec(3, 64, 24, False, RELU, 2),
  BlockSpec(3, 72, 24, False, RELU, 1),
  BlockSpec(5, 72, 40, True, RELU, 2),
  BlockSpec(5, 120, 40, True, RELU, 1),
  BlockSpec(5, 120, 40, True, RELU, 1),
  BlockSpec(3, 240, 80, False, SWISH, 2),
  BlockSpec(3, 200, 80, False, SWISH, 1),
  BlockSpec(3, 184, 80, False, SWISH, 1),
  BlockSpec(3, 184, 80, False, SWISH, 1),
  BlockSpec(3, 480, 112, True, SWISH, 1),
  BlockSpec(3, 672, 112, True, SWISH, 1),
  BlockSpec(5, 672, 160, True, SWISH, 2),
  BlockSpec(5, 960, 160, True, SWISH, 1),
  BlockSpec(5, 960, 160, True, SWISH, 1),
)

SMALL: tuple[BlockSpec, ...] = (
  BlockSpec(3, 16, 16, True, RELU, 2),
  BlockSpec(3, 72, 24, False, RELU, 2),
  BlockSpec(3, 88, 24, False, RELU, 1),
  BlockSpec(5, 96, 40, True, SWISH, 2),
  BlockSpec(5, 240, 40, True, SWISH, 1),
  BlockSpec(5, 240, 40, True, SWISH, 1),
  BlockSpec(5, 120, 48, True, SWISH, 1),
  BlockSpec(5, 144, 48, True, SWISH, 1),
  BlockSpec(5, 288, 96, True, SWISH, 2),
  BlockSpec(5, 576, 96, True, SWISH, 1),
  BlockSpec(5, 576, 96, True, SWISH, 1),
)

# TF DeepLab halves the last stage (`core/feature_extractor.py`).
LARGE_SEG: tuple[BlockSpec, ...] = (
  *LARGE[:12],
  BlockSpec(5, 336, 80, True, SWISH, 2),
  BlockSpec(5, 480, 80, True, SWISH, 1),
  BlockSpec(5, 480, 80, True, SWISH, 1),
)

SMALL_SEG: tuple[BlockSpec, ...] = (
  *SMALL[:8],
  BlockSpec(5, 144, 48, True, SWISH, 2),
  BlockSpec(5, 288, 48, True, SWISH, 1),
  BlockSpec(5, 288, 48, True, SWISH, 1),
)

TINY: tuple[BlockSpec, ...] = (
  BlockSpec(3, 16, 16, False, RELU, 1),
  BlockSpec(3, 32, 32, False, RELU, 2),
  BlockSpec(5, 48, 48, True, RELU, 2),
  BlockSpec(5, 64, 48, True, RELU, 1),
  BlockSpec(3, 80, 64, False, SWISH, 2),
  BlockSpec(3, 96, 80, True, SWISH, 1),
  BlockSpec(5, 96, 96, True, SWISH, 2),
  BlockSpec(5, 128, 96, True, SWISH, 1),
)


class InvertedResidual(nn.Module):
  """1x1 expansion, depthwise, squeeze-and-excitation, linear projection.

  Attributes:
    row: the block's kernel size, activation and nominal stride.
    features: output channels.
    expanded: channels of the depthwise layer.
    expand: has the 1x1 expansion.
    squeezed: channels of the squeeze-and-excitation; 0: there is none.
    gate: one of `attention.GATES`.
    layer: stride and rate of the depthwise layer.
    norm: BatchNorm constants.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  row: BlockSpec
  features: int
  expanded: int
  expand: bool
  squeezed: int
  gate: str
  layer: output_strides.StrideRate
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
    """Maps [B, H, W, C] to the block's output and its depthwise map."""
    conv_bn = functools.partial(
      layers.ConvBN,
      norm=self.norm,
      activation=self.row.activation,
      options=self.options,
      kernel_init=_KERNEL_INIT,
    )
    inputs = x
    if self.expand:
      x = conv_bn(self.expanded, name='expand')(x, train)
    x = wide = conv_bn(
      self.expanded,
      kernel=self.row.kernel,
      stride=self.layer.stride,
      rate=self.layer.rate,
      groups=self.expanded,
      padding=self.padding,
      name='depthwise',
    )(x, train)
    if self.squeezed:
      x = attention.SqueezeExcite(
        self.squeezed,
        gate=self.gate,
        options=self.options,
        kernel_init=_KERNEL_INIT,
        name='squeeze_excite',
      )(x, train)
    x = conv_bn(self.features, activation='none', name='project')(x, train)
    # By the nominal stride: no shortcut appears where a stride is removed.
    if self.row.stride == 1 and inputs.shape[-1] == self.features:
      x = inputs + x
    return x, wide


class MobileNetV3(nn.Module):
  """MobileNetV3 as a feature extractor, with the interface of `contract`.

  The class attribute `rows` is its table. Squeeze-and-excitation reads means
  over the whole map: at another output stride, or on another crop, the gates
  differ, so the networks compute the same function only up to the gates.

  Attributes:
    output_stride: 4, 8, 16 or 32.
    multi_grid: rate factors of the last blocks.
    options: compute options of the whole model.
    alpha: width multiplier.
    rounding: 'torchvision' (and Paddle) scales each number of the table, the
      stem's too, to a multiple of 8; 'keras' keeps the stem and expands the
      scaled input by the table's ratio. Both are the same at alpha 1.
    minimalistic: 3x3 kernels, ReLU, no squeeze-and-excitation: Keras' and
      TF-slim's variant for devices without the operators.
    expand_always: the first block has a 1x1 expansion too, that widens
      nothing.
    squeeze: a quarter of the expanded channels, 'divisible' by 8 or 'exact'.
    gate: one of `attention.GATES`.
    dilation_rule: rate of a block that lost its stride, one of
      `output_stride.DILATION_RULES`; 'tf' is Paddle's, too.
    padding: 'symmetric' samples the same grid at any input size; 'same' is
      TF-slim's and 'keras' is Keras', which pretrained weights expect.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
    tap: for every stage but the last: 'output' taps the last block of it;
      'first' its first layer, as torchvision does (stride 8: the first block
      of 40 channels); 'expanded' the activated depthwise map of its last
      block, before the gates, as TF DeepLab does (`layer_7/depthwise_output`,
      120 channels at stride 8). A stage without blocks is the stem's map.
    top_conv: ends with the 1x1 layer of six times the channels of the last
      block, 960 or 576 (480 or 288 in the *Seg classes).
  """

  rows = LARGE  # a class attribute, not a field of the config

  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()
  alpha: float = 1.0
  rounding: Literal['torchvision', 'keras'] = 'torchvision'
  minimalistic: bool = False
  expand_always: bool = False
  squeeze: Literal['divisible', 'exact'] = 'divisible'
  gate: str = 'hard_sigmoid'
  dilation_rule: output_strides.DilationRule = 'tf'
  padding: layers.Padding = 'symmetric'
  bn_decay: float = 0.99
  bn_epsilon: float = 1e-3
  tap: Literal['output', 'first', 'expanded'] = 'output'
  top_conv: bool = True

  def _check(self) -> None:
    """Raises ValueError where fields are unknown."""
    contract.check_choice('rounding', self.rounding, ('torchvision', 'keras'))
    contract.check_choice('squeeze', self.squeeze, ('divisible', 'exact'))
    contract.check_choice('gate', self.gate, tuple(attention.GATES))
    contract.check_choice(
      'dilation_rule', self.dilation_rule, output_strides.DILATION_RULES
    )
    contract.check_choice('tap', self.tap, ('output', 'first', 'expanded'))
    if self.alpha <= 0:
      raise ValueError(f'alpha={self.alpha} must be positive')

  def _block_specs(self) -> tuple[BlockSpec, ...]:
    """Returns the table, in its minimalistic form if that is set."""
    if not self.minimalistic:
      return self.rows
    return tuple(
      row._replace(kernel=3, squeeze=False, activation=RELU)
      for row in self.rows
    )

  def _plan(
    self, rows: tuple[BlockSpec, ...]
  ) -> list[output_strides.StrideRate]:
    """Returns stride and rate of the stem and of each block."""
    strides = [2, *(row.stride for row in rows)]
    return list(
      output_strides.atrous(
        strides, self.output_stride, self.multi_grid, self.dilation_rule
      )
    )

  def _stem_channels(self) -> int:
    if self.rounding == 'keras':
      return STEM_CHANNELS
    return mobilenet_v2.make_divisible(STEM_CHANNELS * self.alpha, 8)

  def _expanded(self, row: BlockSpec, cin: int, nominal: int) -> int:
    """Returns the channels of a depthwise layer.

    Args:
      row: the block.
      cin: channels of its input.
      nominal: channels of its input at alpha 1.
    """
    if self.rounding == 'keras':
      return mobilenet_v2.make_divisible(cin * (row.expanded / nominal), 8)
    return mobilenet_v2.make_divisible(row.expanded * self.alpha, 8)

  def _squeezed(self, row: BlockSpec, expanded: int) -> int:
    """Returns the squeezed channels of a block, 0 if it squeezes nothing."""
    if not row.squeeze:
      return 0
    if self.squeeze == 'exact':
      return expanded // 4
    return mobilenet_v2.make_divisible(expanded // 4, 8)

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    self._check()
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    conv_bn = functools.partial(
      layers.ConvBN,
      norm=norm,
      activation=RELU if self.minimalistic else SWISH,
      options=self.options,
      kernel_init=_KERNEL_INIT,
    )
    rows = self._block_specs()
    plan = self._plan(rows)
    x = conv_bn(
      self._stem_channels(),
      kernel=3,
      stride=plan[0].stride,
      padding=self.padding,
      name='stem',
    )(images, train)

    features: list[Array] = []
    nominal = STEM_CHANNELS
    taps = {'output': x, 'first': x, 'expanded': x}
    for i, row in enumerate(rows):
      if row.stride > 1:
        features.append(taps[self.tap])
      expanded = self._expanded(row, x.shape[-1], nominal)
      x, wide = self.options.maybe_remat(InvertedResidual, len(features))(
        row,
        mobilenet_v2.make_divisible(row.channels * self.alpha, 8),
        expanded,
        expand=self.expand_always or expanded != x.shape[-1],
        squeezed=self._squeezed(row, expanded),
        gate=self.gate,
        layer=plan[i + 1],
        norm=norm,
        padding=self.padding,
        options=self.options,
        name=f'block_{i}',
      )(x, train)
      first = x if row.stride > 1 else taps['first']
      taps = {'output': x, 'first': first, 'expanded': wide}
      nominal = row.channels

    if self.top_conv:
      x = conv_bn(TOP_EXPANSION * x.shape[-1], name='top')(x, train)
    return (*features, x)


class MobileNetV3Large(MobileNetV3):
  """Channels 16, 24, 40, 112, 960 at nominal strides 2 .. 32."""


class MobileNetV3Small(MobileNetV3):
  """Channels 16 (the stem), 16, 24, 48, 576 at nominal strides 2 .. 32."""

  rows = SMALL


class MobileNetV3LargeSeg(MobileNetV3):
  """TF DeepLab's `mobilenet_v3_large_seg`: 16, 72, 120, 672, 480 channels.

  It was trained with padding='same', on crops where 'symmetric' is the same.
  """

  rows = LARGE_SEG

  gate: str = 'hard_sigmoid_tf'
  bn_decay: float = 0.997
  tap: Literal['output', 'first', 'expanded'] = 'expanded'


class MobileNetV3SmallSeg(MobileNetV3LargeSeg):
  """TF DeepLab's `mobilenet_v3_small_seg`: 16, 16, 88, 144, 288 channels.

  Below output stride 32 the original's block_8 gains a shortcut; this has none.
  """

  rows = SMALL_SEG


class MobileNetV3Tiny(MobileNetV3):
  """Eight narrow blocks, for tests: every kind of block that Large has.

  Channels 8, 16, 24, 40, 288 at nominal strides 2 .. 32; block_0, block_3 and
  block_7 have shortcuts.
  """

  rows = TINY

  alpha: float = 0.5
  bn_decay: float = 0.9
