"""RegNetX: a ResNet of grouped convolutions with widths found by a search.

Radosavovic et al., "Designing Network Design Spaces", 2020, arXiv:2003.13678.
Widths are those of the authors' code (pycls), which Texas Instruments' models
are trained from. The features are equal to torchvision's
(`torchvision.models.regnet`), except for RegNetX-400MF, whose last width
torchvision rounds to 400. All padding is symmetric, so the sampling grid is the
same at any input size.

Modules: `stem`, `stage1_block1` .. `stage4_block12`, each with `conv_1`,
`conv_2` (the grouped one) and `conv_3`, and `shortcut` in the first of a stage.
"""

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models.encoders import contract
from deeplab.models.encoders import resnet

Array = jax.Array

# Normal by the fan-out of all groups, as in torchvision.
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class RegNet(nn.Module):
  """RegNetX as a feature extractor, with the interface of `contract`.

  Channels are `stem_channels` and `widths`, at nominal strides 2 .. 32.

  Attributes:
    output_stride: 4, 8, 16 or 32.
    multi_grid: rate factors of the last units.
    options: compute options of the whole model.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
    stem_channels: channels of the first layer, 3x3 of stride 2.
    widths: channels of all convolutions in each of the four stages.
    depths: units in each stage; the first has stride 2.
    group_width: channels in each group of the 3x3 convolutions.
  """

  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-5
  stem_channels: int = 32
  widths: tuple[int, ...] = (32, 64, 160, 384)
  depths: tuple[int, ...] = (1, 2, 7, 12)
  group_width: int = 16

  def _check(self) -> None:
    """Raises ValueError where a field has the wrong length or value."""
    if [len(self.depths), len(self.widths)] != [4, 4] or min(self.depths) < 1:
      raise ValueError(
        f'depths={tuple(self.depths)} and widths={tuple(self.widths)} must '
        'name the units, at least one, and the channels of four stages'
      )
    if self.group_width < 1 or any(
      width % self.group_width for width in self.widths
    ):
      raise ValueError(
        f'group_width={self.group_width} must divide each of '
        f'widths={tuple(self.widths)}'
      )
    resnet.check_multi_grid(self.multi_grid, self.depths[-1])

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    self._check()
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    nominal = [2]
    for depth in self.depths:
      nominal += [2] + [1] * (depth - 1)
    plan = iter(
      output_strides.atrous(nominal, self.output_stride, self.multi_grid)
    )
    x = layers.ConvBN(
      self.stem_channels,
      norm,
      kernel=3,
      stride=next(plan).stride,
      padding='symmetric',
      options=self.options,
      kernel_init=_KERNEL_INIT,
      name='stem',
    )(images, train)

    features = [x]
    one = output_strides.StrideRate(1, 1)
    for stage, (width, depth) in enumerate(
      zip(self.widths, self.depths, strict=True), start=1
    ):
      for i in range(1, depth + 1):
        x = self.options.maybe_remat(resnet.ResidualUnit, len(features))(
          (
            resnet.ConvSpec(width, 1, one),
            resnet.ConvSpec(width, 3, next(plan), width // self.group_width),
            resnet.ConvSpec(width, 1, one),
          ),
          shortcut='conv' if i == 1 else 'sum',
          norm=norm,
          use_bias=False,
          padding='symmetric',
          options=self.options,
          name=f'stage{stage}_block{i}',
        )(x, train)
      features.append(x)
    return tuple(features)


class RegNetX400MF(RegNet):
  """RegNetX-400MF: twenty-two units."""

  widths: tuple[int, ...] = (32, 64, 160, 384)
  depths: tuple[int, ...] = (1, 2, 7, 12)
  group_width: int = 16


class RegNetX800MF(RegNet):
  """RegNetX-800MF: sixteen units."""

  widths: tuple[int, ...] = (64, 128, 288, 672)
  depths: tuple[int, ...] = (1, 3, 7, 5)
  group_width: int = 16


class RegNetX1600MF(RegNet):
  """RegNetX-1.6GF: eighteen units."""

  widths: tuple[int, ...] = (72, 168, 408, 912)
  depths: tuple[int, ...] = (2, 4, 10, 2)
  group_width: int = 24


class RegNetX3200MF(RegNet):
  """RegNetX-3.2GF: twenty-five units."""

  widths: tuple[int, ...] = (96, 192, 432, 1008)
  depths: tuple[int, ...] = (2, 6, 15, 2)
  group_width: int = 48


class RegNetXTiny(RegNet):
  """Seven narrow units, for tests."""

  stem_channels: int = 8
  widths: tuple[int, ...] = (8, 12, 16, 24)
  depths: tuple[int, ...] = (1, 1, 2, 3)
  group_width: int = 4
