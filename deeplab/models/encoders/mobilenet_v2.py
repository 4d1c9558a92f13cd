"""MobileNetV2, with every variant that published segmentation models use.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
Layouts follow Keras (`keras.applications.MobileNetV2`, to which the features
are equal) and TF-slim (`research/slim/nets/mobilenet`, as
`research/deeplab` uses it); what differs between the two, and in the networks
of Texas Instruments, PaddleSeg, segmentation_models.pytorch, VainF and
jfzhang95, is a field.

Modules: `stem`, `block_0` .. `block_16`, each with `expand` (in block_0 only if
asked for), `depthwise` and `project`, and `top` if asked for. Block numbers are
Keras'.
"""

import functools
from typing import Literal
from typing import NamedTuple

import flax.linen as nn
import jax

from deeplab.models import cpu_kernels
from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models.encoders import contract

Array = jax.Array

# He et al. 2015 by fan-out, as in torchvision: depthwise kernels are small at
# first, and adaptive optimizers change them quickly.
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')

STEM_CHANNELS = 32
TOP_CHANNELS = 1280


class StageSpec(NamedTuple):
  """One row of the paper's table 2 (repeats are a field), or one block."""

  expansion: int
  channels: int
  stride: int


STAGES = (
  StageSpec(1, 16, 1),
  StageSpec(6, 24, 2),
  StageSpec(6, 32, 2),
  StageSpec(6, 64, 2),
  StageSpec(6, 96, 1),
  StageSpec(6, 160, 2),
  StageSpec(6, 320, 1),
)

# Nominal channels of the stage whose first expansion ends a cut encoder.
CUTS = {'none': None, 'block_6_expand': 64, 'block_13_expand': 160}


def make_divisible(value: float, divisor: int) -> int:
  """Returns the multiple of `divisor` nearest to `value`, at least 90% of it.

  Args:
    value: wanted number of channels.
    divisor: the result is a multiple of it, and at least as large.
  """
  rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
  return rounded + divisor if rounded < 0.9 * value else rounded


def scale_channels(channels: int, alpha: float, rounding: str) -> int:
  """Returns the scaled number of channels.

  Args:
    channels: number at alpha 1.
    alpha: width multiplier.
    rounding: 'keras' gives multiples of 8; 'slim' the nearest whole number, as
      in the published TF DeepLab models of alpha 0.5 (12 channels at stride 4
      where Keras has 16). Both are the same at alpha 1.
  """
  if rounding == 'slim':
    return make_divisible(channels * alpha, 1)
  return make_divisible(int(channels * alpha), 8)


class InvertedResidual(nn.Module):
  """1x1 expansion, 3x3 depthwise, linear 1x1 projection, optional shortcut.

  Attributes:
    features: output channels.
    expanded: channels of the depthwise layer.
    expand: has a 1x1 expansion to them; without it they are the input's.
    layer: stride and rate of the depthwise layer.
    shortcut: adds the input.
    norm: BatchNorm constants.
    activation: 'relu6' or 'relu'.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
    pad_input: pads the block's input in place of the depthwise layer's.
    expand_only: stops after the expansion.
  """

  features: int
  expanded: int
  expand: bool
  layer: output_strides.StrideRate
  shortcut: bool
  norm: layers.BatchNormConfig
  activation: str
  padding: layers.Padding
  options: layers.Options
  pad_input: bool = False
  expand_only: bool = False

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
    """Maps [B, H, W, C] to the block's output and its widest map."""
    conv_bn = functools.partial(
      layers.ConvBN,
      norm=self.norm,
      activation=self.activation,
      options=self.options,
      kernel_init=_KERNEL_INIT,
    )
    inputs = x
    padding: layers.Padding | cpu_kernels.Pads = self.padding
    if self.pad_input and self.expand:
      # A 1x1 layer on a padded map: its border is BatchNorm's value of zero.
      border = layers.explicit_padding(
        padding, x.shape[1:3], 3, self.layer.stride, self.layer.rate
      )
      x = conv_bn(self.expanded, padding=border, name='expand')(x, train)
      padding = layers.NO_PADDING
    elif self.expand:
      x = conv_bn(self.expanded, name='expand')(x, train)
    if self.expand_only:
      return x, x
    wide = conv_bn(
      self.expanded,
      kernel=3,
      stride=self.layer.stride,
      rate=self.layer.rate,
      groups=self.expanded,
      padding=padding,
      name='depthwise',
    )(x, train)
    x = conv_bn(self.features, activation='none', name='project')(wide, train)
    return (inputs + x if self.shortcut else x), wide


class MobileNetV2(nn.Module):
  """MobileNetV2 as a feature extractor, with the interface of `contract`.

  Channels at alpha 1: 16, 24, 32, 96, 320 at nominal strides 2 .. 32.

  Attributes:
    output_stride: 4, 8, 16 or 32.
    multi_grid: rate factors of the last blocks, (14, 15, 16) for three.
    options: compute options of the whole model.
    alpha: width multiplier.
    rounding: how `scale_channels` rounds, 'keras' or 'slim'.
    activation: 'relu6', or 'relu' as in TI's models.
    padding: 'symmetric' samples the same grid at any input size; 'same' is
      TF-slim's and 'keras' is Keras', which pretrained weights expect.
    bn_decay: share of the old running statistic kept at each step. Published:
      0.997 (TF), 0.999 (Keras), 0.9 (PyTorch).
    bn_epsilon: added to BatchNorm's variance.
    tap: 'output' taps the last block of each stage; 'expanded' taps its
      activated depthwise map, six times as wide, for every stage but the last:
      TF DeepLab's decoder reads `layer_4/depthwise_output`, 144 channels at
      stride 4.
    cut: 'none'; 'block_13_expand' ends with the first expansion of the
      160-channel stage (nominal stride 16, 576 channels), 'block_6_expand'
      with that of the 64-channel stage (stride 8, 192 channels), each in place
      of its stage's own map. STMicroelectronics' models are cut so.
    top_conv: ends with the 1x1 layer of 1280 channels (more above alpha 1)
      of classifiers.
    repeats: blocks in each of the seven stages.
    atrous: False leaves all rates at 1 where a stride is removed, so that later
      layers see less of the image: Texas Instruments' models of output stride
      16 ("S16"), for processors on which atrous layers are slow.
    expand_first: block_0 has an `expand` too, a 1x1 layer that does not widen,
      as in PaddleSeg.
    dilation_rule: rate of a block that lost its stride, one of
      `output_stride.DILATION_RULES`; or 'stage': the other blocks of its stage
      keep the old rate, too, as in jfzhang95's networks.
    pad_input: blocks pad their input, not the expanded map, so that the border
      that the depthwise layer reads is what BatchNorm makes of zero: in
      VainF's and jfzhang95's networks.
  """

  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()
  alpha: float = 1.0
  rounding: Literal['keras', 'slim'] = 'keras'
  activation: Literal['relu6', 'relu'] = 'relu6'
  padding: layers.Padding = 'symmetric'
  bn_decay: float = 0.997
  bn_epsilon: float = 1e-3
  tap: Literal['output', 'expanded'] = 'output'
  cut: Literal['none', 'block_6_expand', 'block_13_expand'] = 'none'
  top_conv: bool = False
  repeats: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
  atrous: bool = True
  expand_first: bool = False
  dilation_rule: Literal['tf', 'torchvision', 'stage'] = 'tf'
  pad_input: bool = False

  def _check(self) -> None:
    """Raises ValueError where fields are unknown or exclude each other."""
    contract.check_choice('rounding', self.rounding, ('keras', 'slim'))
    contract.check_choice('activation', self.activation, ('relu6', 'relu'))
    contract.check_choice('tap', self.tap, ('output', 'expanded'))
    contract.check_choice('cut', self.cut, tuple(CUTS))
    contract.check_choice(
      'dilation_rule',
      self.dilation_rule,
      (*output_strides.DILATION_RULES, 'stage'),
    )
    if self.alpha <= 0:
      raise ValueError(f'alpha={self.alpha} must be positive')
    if len(self.repeats) != len(STAGES) or min(self.repeats) < 1:
      raise ValueError(
        f'repeats={tuple(self.repeats)} must name at least one block for each '
        f'of the {len(STAGES)} stages'
      )
    uneven = any(factor != 1 for factor in self.multi_grid)
    if self.cut != 'none' and (self.top_conv or uneven):
      raise ValueError(
        f'cut={self.cut!r} drops the last blocks: it goes with neither '
        f'top_conv nor multi_grid={tuple(self.multi_grid)}'
      )
    if not self.atrous and uneven:
      raise ValueError(
        f'atrous=False has no rates that multi_grid={tuple(self.multi_grid)} '
        'could multiply'
      )

  def _block_specs(self) -> list[StageSpec]:
    """Returns each block; only the first of a stage has the stage's stride."""
    return [
      stage if i == 0 else stage._replace(stride=1)
      for stage, count in zip(STAGES, self.repeats, strict=True)
      for i in range(count)
    ]

  def _plan(
    self, blocks: list[StageSpec]
  ) -> tuple[output_strides.StrideRate, ...]:
    """Returns stride and rate of the stem and of each block."""
    strides = [2, *(block.stride for block in blocks)]
    if self.dilation_rule != 'stage':
      plan = output_strides.atrous(
        strides, self.output_stride, self.multi_grid, self.dilation_rule
      )
    else:
      plan = self._plan_by_stage(strides)
    if self.atrous:
      return plan
    return tuple(layer._replace(rate=1) for layer in plan)

  def _plan_by_stage(
    self, strides: list[int]
  ) -> tuple[output_strides.StrideRate, ...]:
    """Returns a plan where all blocks of a stage have its first one's rate."""
    plan = output_strides.atrous(strides, self.output_stride)
    firsts = [
      sum(self.repeats[:stage]) + 1
      for stage, count in enumerate(self.repeats)
      for _ in range(count)
    ]
    factors = [1] * (len(plan) - len(self.multi_grid)) + [*self.multi_grid]
    return tuple(
      layer._replace(rate=plan[first].rate * factor)
      for layer, first, factor in zip(plan, [0, *firsts], factors, strict=True)
    )

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    self._check()
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    conv_bn = functools.partial(
      layers.ConvBN,
      norm=norm,
      activation=self.activation,
      options=self.options,
      kernel_init=_KERNEL_INIT,
    )
    blocks = self._block_specs()
    plan = self._plan(blocks)
    x = conv_bn(
      scale_channels(STEM_CHANNELS, self.alpha, self.rounding),
      kernel=3,
      stride=plan[0].stride,
      padding=self.padding,
      name='stem',
    )(images, train)

    features: list[Array] = []
    for i, block in enumerate(blocks):
      cin = x.shape[-1]
      channels = scale_channels(block.channels, self.alpha, self.rounding)
      expanded = cin
      if block.expansion > 1:
        expanded = make_divisible(cin * block.expansion, 8)
      cut = block.channels == CUTS[self.cut]
      x, wide = self.options.maybe_remat(InvertedResidual, len(features))(
        channels,
        expanded,
        block.expansion > 1 or self.expand_first,
        plan[i + 1],
        # By the nominal stride: no shortcut appears where a stride is removed.
        shortcut=block.stride == 1 and cin == channels,
        norm=norm,
        activation=self.activation,
        padding=self.padding,
        options=self.options,
        pad_input=self.pad_input,
        expand_only=cut,
        name=f'block_{i}',
      )(x, train)
      if cut:
        return (*features[:-1], x)
      final = i + 1 == len(blocks)
      if final or blocks[i + 1].stride > 1:
        features.append(wide if self.tap == 'expanded' and not final else x)

    if self.top_conv:
      channels = scale_channels(
        TOP_CHANNELS, max(self.alpha, 1.0), self.rounding
      )
      x = conv_bn(channels, name='top')(x, train)
      features[-1] = x
    return tuple(features)


class MobileNetV2Tiny(MobileNetV2):
  """Nine narrow blocks, for tests: every kind of block that the full one has.

  Channels 8, 8, 8, 24, 80 at nominal strides 2 .. 32; block_2 and block_7 have
  shortcuts.
  """

  alpha: float = 0.25
  bn_decay: float = 0.9
  repeats: tuple[int, ...] = (1, 2, 1, 1, 1, 2, 1)
