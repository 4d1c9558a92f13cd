"""ResNet, with every variant that published segmentation models use.

He et al., "Deep Residual Learning for Image Recognition", 2015,
arXiv:1512.03385. By default the layout is torchvision's
(`torchvision.models.resnet`, to which the features are equal). Others set

    mmsegmentation   stem='v1c' (its "b" rows: 'v1'), basic_dilation='first',
                     multi_grid_mode='replace'
    Keras            stride_conv='1x1', conv_bias=True, bn_decay=0.99,
                     bn_epsilon=1.001e-5; features equal to
                     `keras.applications.ResNet50`
    jfzhang95        dilation_rule='torchvision', multi_grid=(1, 2, 4)
    smp              dilation_rule='torchvision' (segmentation_models.pytorch)
    TF DeepLab       stem='beta', stride_unit='last', pool_padding='same',
                     bn_decay=0.95

Modules: `stem_1` (.. `stem_3` in deep stems), then the units by the paper's
stages and Keras' names, `conv2_block1` .. `conv5_block3`. A unit has `conv_1`,
`conv_2`, in bottlenecks `conv_3`, and `shortcut` where channels change.
"""

from collections.abc import Sequence
import functools
import math
from typing import Literal
from typing import NamedTuple

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models import pooling
from deeplab.models.encoders import contract

Array = jax.Array

# He et al. 2015 by fan-out, as in torchvision.
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')

# Kernel of each layer of a stem, and its channels as a share of `widths[0]`.
STEMS = {
  'v1': ((7, 1.0),),
  'v1c': ((3, 0.5), (3, 0.5), (3, 1.0)),
  'beta': ((3, 1.0), (3, 1.0), (3, 2.0)),
}

# Channels of a unit's output as a multiple of its 3x3 convolution's.
EXPANSION = {'basic': 1, 'bottleneck': 4}


class ConvSpec(NamedTuple):
  """One convolution of a residual unit."""

  features: int
  kernel: int
  layer: output_strides.StrideRate
  groups: int = 1


class ResidualUnit(nn.Module):
  """Convolutions, a shortcut around them, and a ReLU after the sum.

  Attributes:
    convs: the convolutions; each has a BatchNorm, all but the last a ReLU.
    shortcut: 'conv' adds a 1x1 projection of the input, 'sum' the input; both
      with the product of the convolutions' strides.
    norm: BatchNorm constants.
    use_bias: convolutions have a bias.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  convs: Sequence[ConvSpec]
  shortcut: Literal['conv', 'sum']
  norm: layers.BatchNormConfig
  use_bias: bool
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to [B, H / stride, W / stride, features], rounded up.

    `features` are those of the last convolution.
    """
    conv_bn = functools.partial(
      layers.ConvBN,
      norm=self.norm,
      use_bias=self.use_bias,
      padding=self.padding,
      options=self.options,
      kernel_init=_KERNEL_INIT,
    )
    y = x
    for i, conv in enumerate(self.convs, start=1):
      y = conv_bn(
        conv.features,
        kernel=conv.kernel,
        stride=conv.layer.stride,
        rate=conv.layer.rate,
        groups=conv.groups,
        activation='relu' if i < len(self.convs) else 'none',
        name=f'conv_{i}',
      )(y, train)
    stride = math.prod(conv.layer.stride for conv in self.convs)
    if self.shortcut == 'conv':
      x = conv_bn(
        self.convs[-1].features,
        stride=stride,
        activation='none',
        name='shortcut',
      )(x, train)
    elif stride > 1:
      x = x[:, ::stride, ::stride]
    return jax.nn.relu(x + y)


def check_multi_grid(factors: Sequence[int], units: int) -> None:
  """Raises ValueError unless the factors are positive and fit the last stage.

  Args:
    factors: an encoder's `multi_grid`; of any length if all are 1.
    units: number of units in its last stage.
  """
  uneven = any(factor != 1 for factor in factors)
  if any(factor < 1 for factor in factors) or (uneven and len(factors) > units):
    raise ValueError(
      f'multi_grid={tuple(factors)} must hold factors of 1 and more, at most '
      f'one for each of the {units} units of the last stage'
    )


class UnitSpec(NamedTuple):
  """One residual unit of the network's table."""

  name: str
  channels: int  # of its 3x3 convolutions
  stride: int  # nominal


class ResNet(nn.Module):
  """ResNet as a feature extractor, with the interface of `contract`.

  The first entry is the stem before the max pooling. The others are outputs of
  whole units: of the last before each strided unit, and of the last of all. (TF
  DeepLab's decoder reads the third convolution of that unit instead, before the
  sum: `block1/unit_2/bottleneck_v1/conv3`.)

  Channels of the bottleneck networks: 64 (128 with the 'beta' stem), 256, 512,
  1024, 2048 at nominal strides 2 .. 32; of ResNet-18 and 34: 64, 64, 128, 256,
  512.

  Attributes:
    output_stride: 4, 8, 16 or 32.
    multi_grid: rate factors of the last units, applied by `multi_grid_mode`.
    options: compute options of the whole model.
    block: 'basic' is two 3x3 convolutions; 'bottleneck' is 1x1, 3x3, and 1x1
      with four times the channels.
    depths: units in each of the four stages.
    widths: channels of the 3x3 convolutions in each stage.
    stem: 'v1' is one 7x7 layer; 'v1c' three 3x3 layers of 32, 32 and 64
      channels; 'beta' of 64, 64 and 128. The first has stride 2. All are
      followed by 3x3 max pooling of stride 2.
    stride_unit: 'first' has the stride of a stage in its first unit; 'last' has
      that of the next stage in the last unit, as in TF-slim.
    stride_conv: the convolution of a bottleneck that has the stride: its '3x3',
      or the '1x1' before that, as in the paper and in Keras.
    basic_dilation: 'both' 3x3 convolutions of a basic block are atrous, which
      keeps the function of the weights at every output stride; in
      mmsegmentation only the 'first' is. torchvision has no atrous basic block.
    multi_grid_mode: 'multiply' multiplies the factors onto the rates of the
      last units, as the paper and TF DeepLab do: in the last stage at output
      stride 16, factors 1, 2, 4 give rates 1, 4, 8 (2, 4, 8 with
      stride_unit='last'). 'replace' takes them for the rates: 1, 2, 4, as
      mmsegmentation does; there must be one for each unit of the last stage.
    dilation_rule: rate of a convolution that lost its stride, one of
      `output_stride.DILATION_RULES`; torchvision's own ResNets have 'tf'.
    conv_bias: convolutions have a bias before the BatchNorm.
    padding: 'symmetric', in all the systems above, samples the same grid at any
      input size. 'same' needs no padding operator in an exported graph; on maps
      of even size its strided 3x3 convolutions are centered one row off the
      rows that the shortcuts read.
    pool_padding: padding of the max pooling; 'same' in TF-slim.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
    cut: 'none'; or the last unit of the third or fourth stage, where the
      encoder ends: 'conv3_block4_out' (nominal stride 8) or 'conv4_block6_out'
      (stride 16) in ResNet-50. STMicroelectronics' models are cut so.
  """

  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()
  block: Literal['basic', 'bottleneck'] = 'bottleneck'
  depths: tuple[int, ...] = (3, 4, 6, 3)
  widths: tuple[int, ...] = (64, 128, 256, 512)
  stem: Literal['v1', 'v1c', 'beta'] = 'v1'
  stride_unit: Literal['first', 'last'] = 'first'
  stride_conv: Literal['3x3', '1x1'] = '3x3'
  basic_dilation: Literal['both', 'first'] = 'both'
  multi_grid_mode: Literal['multiply', 'replace'] = 'multiply'
  dilation_rule: output_strides.DilationRule = 'tf'
  conv_bias: bool = False
  padding: layers.Padding = 'symmetric'
  pool_padding: layers.Padding = 'symmetric'
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-5
  cut: str = 'none'

  def _check(self) -> None:
    """Raises ValueError where fields are unknown or exclude each other."""
    contract.check_choice('block', self.block, tuple(EXPANSION))
    contract.check_choice('stem', self.stem, tuple(STEMS))
    contract.check_choice('stride_unit', self.stride_unit, ('first', 'last'))
    contract.check_choice('stride_conv', self.stride_conv, ('3x3', '1x1'))
    contract.check_choice(
      'basic_dilation', self.basic_dilation, ('both', 'first')
    )
    contract.check_choice(
      'multi_grid_mode', self.multi_grid_mode, ('multiply', 'replace')
    )
    contract.check_choice(
      'dilation_rule', self.dilation_rule, output_strides.DILATION_RULES
    )
    contract.check_choice('padding', self.padding, ('symmetric', 'same'))
    contract.check_choice(
      'pool_padding', self.pool_padding, ('symmetric', 'same')
    )
    if [len(self.depths), len(self.widths)] != [4, 4] or min(self.depths) < 1:
      raise ValueError(
        f'depths={tuple(self.depths)} and widths={tuple(self.widths)} must '
        'name the units, at least one, and the channels of four stages'
      )
    if self.stride_unit == 'last' and min(self.depths) < 2:
      raise ValueError(
        f'depths={tuple(self.depths)} must be 2 and more with '
        "stride_unit='last', or a stage would have no unit before its stride"
      )
    if self.block == 'basic' and self.stride_conv == '1x1':
      raise ValueError("stride_conv='1x1' needs block='bottleneck'")
    if self.block == 'bottleneck' and self.basic_dilation == 'first':
      raise ValueError("basic_dilation='first' needs block='basic'")
    self._check_last_stage()

  def _check_last_stage(self) -> None:
    """Raises ValueError where `cut` or `multi_grid` does not fit the stages."""
    replace = self.multi_grid_mode == 'replace'
    if replace and len(self.multi_grid) != self.depths[-1]:
      raise ValueError(
        f'multi_grid={tuple(self.multi_grid)} must hold a rate for each of the '
        f"{self.depths[-1]} units of the last stage with 'replace'"
      )
    check_multi_grid(self.multi_grid, self.depths[-1])
    ends = [f'conv{i}_block{self.depths[i - 2]}_out' for i in (3, 4)]
    contract.check_choice('cut', self.cut, ('none', *ends))
    uneven = any(factor != 1 for factor in self.multi_grid)
    if self.cut != 'none' and (uneven or replace or self.stride_unit == 'last'):
      raise ValueError(
        f'cut={self.cut!r} drops the last stage: it goes with stride_unit='
        f"'first' and factors of 1 to multiply, not {self.stride_unit!r}, "
        f'multi_grid={tuple(self.multi_grid)} and multi_grid_mode='
        f'{self.multi_grid_mode!r}'
      )

  def _units(self) -> list[UnitSpec]:
    """Returns the units of all stages."""
    units = []
    for stage, depth in enumerate(self.depths):
      for i in range(depth):
        if self.stride_unit == 'first':
          strided = stage > 0 and i == 0
        else:
          strided = stage + 1 < len(self.depths) and i + 1 == depth
        units.append(
          UnitSpec(
            f'conv{stage + 2}_block{i + 1}',
            self.widths[stage],
            2 if strided else 1,
          )
        )
    return units

  def _convs(self, units: Sequence[UnitSpec]) -> list[tuple[ConvSpec, ...]]:
    """Returns the convolutions of each unit.

    The plan holds the two layers of a unit that may have a stride or a rate: a
    basic block's convolutions, and a bottleneck's first two. So the layer that
    lost its stride keeps its rate, and the next one in the same unit gets the
    larger rate.
    """
    early = self.block == 'basic' or self.stride_conv == '1x1'
    nominal = [2, 2]  # the stem and the max pooling
    for unit in units:
      nominal += [unit.stride, 1] if early else [1, unit.stride]
    factors = [factor for factor in self.multi_grid for _ in range(2)]
    plan = list(
      output_strides.atrous(
        nominal, self.output_stride, factors, self.dilation_rule
      )
    )
    if self.multi_grid_mode == 'replace':
      for i, rate in enumerate(factors, start=len(plan) - len(factors)):
        plan[i] = plan[i]._replace(rate=rate)

    convs: list[tuple[ConvSpec, ...]] = []
    one = output_strides.StrideRate(1, 1)
    for unit, first, second in zip(units, plan[2::2], plan[3::2], strict=True):
      if self.block == 'bottleneck':
        convs.append(
          (
            ConvSpec(unit.channels, 1, first._replace(rate=1)),
            ConvSpec(unit.channels, 3, second),
            ConvSpec(EXPANSION[self.block] * unit.channels, 1, one),
          )
        )
      else:
        if self.basic_dilation == 'first':
          second = second._replace(rate=1)
        convs.append(
          (
            ConvSpec(unit.channels, 3, first),
            ConvSpec(unit.channels, 3, second),
          )
        )
    return convs

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    self._check()
    units = self._units()
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    x = images
    for i, (kernel, share) in enumerate(STEMS[self.stem], start=1):
      x = layers.ConvBN(
        int(share * self.widths[0]),
        norm,
        kernel=kernel,
        stride=2 if i == 1 else 1,
        use_bias=self.conv_bias,
        padding=self.padding,
        options=self.options,
        kernel_init=_KERNEL_INIT,
        name=f'stem_{i}',
      )(x, train)
    features = [x]
    x = pooling.max_pool(x, self.pool_padding)

    for unit, convs in zip(units, self._convs(units), strict=True):
      if unit.stride > 1:
        features.append(x)
      x = self.options.maybe_remat(ResidualUnit, len(features))(
        convs,
        shortcut='sum' if x.shape[-1] == convs[-1].features else 'conv',
        norm=norm,
        use_bias=self.conv_bias,
        padding=self.padding,
        options=self.options,
        name=unit.name,
      )(x, train)
      if self.cut == f'{unit.name}_out':
        break
    return (*features, x)


class ResNet18(ResNet):
  """ResNet-18: eight basic blocks."""

  block: Literal['basic', 'bottleneck'] = 'basic'
  depths: tuple[int, ...] = (2, 2, 2, 2)


class ResNet34(ResNet):
  """ResNet-34: sixteen basic blocks."""

  block: Literal['basic', 'bottleneck'] = 'basic'
  depths: tuple[int, ...] = (3, 4, 6, 3)


class ResNet50(ResNet):
  """ResNet-50: sixteen bottlenecks."""

  depths: tuple[int, ...] = (3, 4, 6, 3)


class ResNet101(ResNet):
  """ResNet-101: thirty-three bottlenecks."""

  depths: tuple[int, ...] = (3, 4, 23, 3)


class ResNetTiny(ResNet):
  """Nine narrow bottlenecks, for tests.

  Channels 4, 16, 24, 32, 40 at nominal strides 2 .. 32.
  """

  depths: tuple[int, ...] = (2, 2, 2, 3)
  widths: tuple[int, ...] = (4, 6, 8, 10)
