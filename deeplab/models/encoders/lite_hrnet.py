"""Lite-HRNet: parallel resolutions, with channel weighting for 1x1 layers.

Yu et al., "Lite-HRNet: A Lightweight High-Resolution Network" (2021,
arXiv:2104.06403), as PaddleSeg has it (`backbones/lite_hrnet.py`, to whose
weights the features are equal): with its iterative head, and with its fusion,
which differs from the paper. There the finest branch counts twice in every sum,
and the sums of the coarser branches read the finest branch after its own sum.

Modules: `stem`; per stage `transition{stage}_branch{i}` for each branch that
is new or changes channels, then `stage{stage}_module{m}` with `block{b}` and
`fuse{i}_from{j}`; and `head{i}` of each branch.
"""

from collections.abc import Sequence
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import attention
from deeplab.models import layers
from deeplab.models import output_stride as output_strides
from deeplab.models import pooling
from deeplab.models import resizing
from deeplab.models.encoders import contract
from deeplab.models.encoders import shufflenet_v2

Array = jax.Array


def upsample_nearest(x: Array, factor: int, size: Sequence[int]) -> Array:
  """Nearest-neighbor upsampling by a whole factor.

  Copies are concatenated on the innermost axis and reshaped, once per axis:
  `jnp.repeat` and gathers export as broadcasts, which NPU compilers reject.

  Args:
    x: [B, h, w, C].
    factor: copies of each row and column.
    size: (H, W), at most (factor * h, factor * w); the rest is cropped.

  Returns:
    [B, H, W, C].
  """
  batch, height, width, channels = x.shape
  x = jnp.concatenate([x] * factor, axis=-1)
  x = x.reshape(batch, height, factor * width * channels)
  x = jnp.concatenate([x] * factor, axis=-1)
  x = x.reshape(batch, factor * height, factor * width, channels)
  return x[:, : size[0], : size[1]]


class Stem(nn.Module):
  """A 3x3 layer of stride 2, then a shuffle unit of stride 2 on its halves.

  One half is expanded to all the channels for its depthwise convolution.

  Attributes:
    features: output channels of both, a multiple of 2.
    norm: BatchNorm constants.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  features: int
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
    """Maps [B, H, W, C] to the maps at stride 2 and 4."""
    conv_bn = functools.partial(
      layers.ConvBN,
      norm=self.norm,
      padding=self.padding,
      options=self.options,
    )
    strided = functools.partial(conv_bn, kernel=3, stride=2)
    half = self.features // 2
    fine = strided(self.features, name='conv')(x, train)
    x, y = jnp.split(fine, 2, axis=-1)
    x = strided(
      half, groups=half, activation='none', name='shortcut_depthwise'
    )(x, train)
    x = conv_bn(half, name='shortcut_project')(x, train)
    y = conv_bn(self.features, name='expand')(y, train)
    y = strided(
      self.features,
      groups=self.features,
      activation='none',
      name='depthwise',
    )(y, train)
    y = conv_bn(half, name='project')(y, train)
    return fine, shufflenet_v2.interleave_channels(x, y)


class ConditionalChannelWeighting(nn.Module):
  """Conditional channel weighting of one half of each branch's channels.

  Weights across resolutions come from all branches, pooled to the size of the
  coarsest; weights of a branch's channels from its means.

  Attributes:
    reduction: ratio of the channels of all halves to the squeezed layer's.
    norm: BatchNorm constants.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  reduction: int
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, branches: Sequence[Array], train: bool) -> list[Array]:
    """Maps branches [B, h, w, C], fine to coarse, to maps of their shapes."""
    halves = [jnp.split(x, 2, axis=-1) for x in branches]
    maps = self._cross_resolution_weighting([y for _, y in halves], train)
    for i, y in enumerate(maps):
      y = layers.ConvBN(
        y.shape[-1],
        self.norm,
        kernel=3,
        groups=y.shape[-1],
        padding=self.padding,
        activation='none',
        options=self.options,
        name=f'depthwise{i}',
      )(y, train)
      maps[i] = attention.SqueezeExcite(
        y.shape[-1] // 4, 'sigmoid', self.options, name=f'squeeze_excite{i}'
      )(y, train)
    return [
      shufflenet_v2.interleave_channels(x, y)
      for (x, _), y in zip(halves, maps, strict=True)
    ]

  def _cross_resolution_weighting(
    self, maps: Sequence[Array], train: bool
  ) -> list[Array]:
    """Returns the maps times their weights across resolutions."""
    size = maps[-1].shape[1:3]
    x = jnp.concatenate(
      [
        *(pooling.adaptive_average_pool(y, size, train) for y in maps[:-1]),
        maps[-1],
      ],
      axis=-1,
    )
    channels = [y.shape[-1] for y in maps]
    for features, activation, name in (
      (sum(channels) // self.reduction, 'relu', 'reduce'),
      (sum(channels), 'none', 'expand'),
    ):
      x = layers.ConvBN(
        features,
        self.norm,
        activation=activation,
        options=self.options,
        name=name,
      )(x, train)
    splits = [sum(channels[:i]) for i in range(1, len(channels))]
    last = len(maps) - 1
    weighted = []
    # Gates after the split: in int8 each part then has a scale of its own.
    for i, w in enumerate(jnp.split(x, splits, axis=-1)):
      w = jax.nn.sigmoid(w)
      if i < last:
        w = upsample_nearest(w, 2 ** (last - i), maps[i].shape[1:3])
      weighted.append(maps[i] * w)
    return weighted


class LiteHRModule(nn.Module):
  """Blocks, then an exchange between all branches.

  Attributes:
    blocks: number of blocks.
    reduction: squeeze ratio of `ConditionalChannelWeighting`.
    norm: BatchNorm constants of the exchange.
    block_norm: BatchNorm constants of the blocks.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  blocks: int
  reduction: int
  norm: layers.BatchNormConfig
  block_norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, branches: Sequence[Array], train: bool) -> list[Array]:
    """Maps branches [B, h, w, C], fine to coarse, to maps of their shapes."""
    maps = list(branches)
    for i in range(self.blocks):
      maps = ConditionalChannelWeighting(
        self.reduction,
        self.block_norm,
        self.padding,
        self.options,
        name=f'block{i}',
      )(maps, train)
    sums = []
    for i in range(len(maps)):
      first = (
        maps[0]
        if i == 0
        else self._downsample_branch(maps[0], maps, i, 0, train)
      )
      total = first + first
      for j in range(1, len(maps)):
        if j < i:
          total = total + self._downsample_branch(maps[j], maps, i, j, train)
        elif j == i:
          total = total + maps[j]
        else:
          total = total + self._upsample_branch(maps[j], maps[i], i, j, train)
      if i == 0:
        maps[0] = total
      sums.append(jax.nn.relu(total))
    return sums

  def _upsample_branch(
    self, x: Array, to: Array, i: int, j: int, train: bool
  ) -> Array:
    """Upsamples branch j to the channels and the size of branch i."""
    x = layers.ConvBN(
      to.shape[-1],
      self.norm,
      activation='none',
      options=self.options,
      name=f'fuse{i}_from{j}',
    )(x, train)
    return upsample_nearest(x, 2 ** (j - i), to.shape[1:3])

  def _downsample_branch(
    self, x: Array, maps: Sequence[Array], i: int, j: int, train: bool
  ) -> Array:
    """Downsamples branch j to the channels and the size of branch i."""
    for k in range(j + 1, i + 1):
      x = layers.SeparableConvBN(
        maps[i if k == i else j].shape[-1],
        self.norm,
        stride=2,
        padding=self.padding,
        depthwise_activation='none',
        activation='none' if k == i else 'relu',
        options=self.options,
        name=f'fuse{i}_from{j}_{k - j}',
      )(x, train)
    return x


class LiteHRNet18(nn.Module):
  """Lite-HRNet-18 as a feature extractor, with the interface of `contract`.

  Channels 32 (the stem), 40, 40, 80, 160 at nominal strides 2 .. 32. All
  branches are computed at every output stride: the coarser maps are resized
  with aligned corners and added to the finer ones.

  Attributes:
    output_stride: 4, 8, 16 or 32. No layer is atrous: the entries of greater
      strides are left out, as in an encoder that is cut.
    multi_grid: must be ones; there are no rates to multiply.
    options: compute options of the whole model.
    stem: channels of the stem.
    channels: channels of the branches at strides 4, 8, 16 and 32, multiples of
      8.
    modules: modules in each stage; the stages have 2, 3 and 4 branches.
      Lite-HRNet-30 has (3, 8, 3).
    blocks: blocks in each module.
    reduction: squeeze ratio of the weights across resolutions.
    freeze_norm: the BatchNorm of the blocks and of the head is frozen, see
      `layers.BatchNormConfig`. PaddleSeg trains so, from ImageNet's statistics
      and on batches of few images; without pretrained weights the layers would
      never be normalized, so it is off. Weight decay still changes their
      scales: exclude them by `optimizer.decay_mask`.
    padding: one of `layers.Padding`.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
  """

  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()
  stem: int = 32
  channels: tuple[int, ...] = (40, 80, 160, 320)
  modules: tuple[int, ...] = (2, 4, 2)
  blocks: int = 2
  reduction: int = 8
  freeze_norm: bool = False
  padding: layers.Padding = 'symmetric'
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-5

  def _check(self) -> None:
    """Raises ValueError where fields do not describe a network."""
    contract.check_choice(
      'output_stride', self.output_stride, output_strides.OUTPUT_STRIDES
    )
    if any(factor != 1 for factor in self.multi_grid):
      raise ValueError(
        f'multi_grid={tuple(self.multi_grid)} must be ones: Lite-HRNet has no '
        'atrous layers'
      )
    if [len(self.channels), len(self.modules)] != [4, 3] or self.stem % 2:
      raise ValueError(
        f'stem={self.stem} must be even, channels={tuple(self.channels)} four '
        f'numbers, and modules={tuple(self.modules)} three'
      )
    if any(c < 8 or c % 8 for c in self.channels):
      raise ValueError(
        f'channels={tuple(self.channels)} must be positive multiples of 8'
      )

  @nn.compact
  def __call__(self, images: Array, train: bool) -> contract.FeatureMaps:
    """Maps [B, H, W, C] to one feature map per stage, fine to coarse."""
    self._check()
    norm = layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)
    frozen = layers.BatchNormConfig(
      self.bn_decay, self.bn_epsilon, self.freeze_norm
    )
    fine, x = Stem(self.stem, norm, self.padding, self.options, name='stem')(
      images, train
    )
    branches = [x]
    for stage, modules in enumerate(self.modules):
      branches = self._transition(branches, stage, norm, train)
      for i in range(modules):
        # The finest branch has stride 4: the second stage, index 1.
        branches = self.options.maybe_remat(LiteHRModule, 1)(
          self.blocks,
          self.reduction,
          norm,
          frozen,
          self.padding,
          self.options,
          name=f'stage{stage}_module{i}',
        )(branches, train)
    features = [fine, *self._iterative_head(branches, frozen, train)]
    return tuple(
      x for i, x in enumerate(features) if 2 ** (i + 1) <= self.output_stride
    )

  def _separable(
    self,
    features: int,
    norm: layers.BatchNormConfig,
    name: str,
    stride: int = 1,
  ) -> layers.SeparableConvBN:
    """Returns a separable 3x3 layer without an activation in between."""
    return layers.SeparableConvBN(
      features,
      norm,
      stride=stride,
      padding=self.padding,
      depthwise_activation='none',
      options=self.options,
      name=name,
    )

  def _transition(
    self,
    branches: Sequence[Array],
    stage: int,
    norm: layers.BatchNormConfig,
    train: bool,
  ) -> list[Array]:
    """Returns the branches of a stage: one more than before, at first two.

    A new branch is computed from the coarsest, at twice its stride.
    """
    result = []
    for i, channels in enumerate(self.channels[: stage + 2]):
      new = i == len(branches)
      x = branches[-1] if new else branches[i]
      if new or x.shape[-1] != channels:
        name = f'transition{stage}_branch{i}'
        stride = 2 if new else 1
        x = self._separable(channels, norm, name, stride)(x, train)
      result.append(x)
    return result

  def _iterative_head(
    self, branches: Sequence[Array], norm: layers.BatchNormConfig, train: bool
  ) -> list[Array]:
    """Adds each branch to the next finer one, from coarse to fine.

    Each map is first projected to the channels of the next finer branch.
    """
    maps: list[Array] = []
    for i in reversed(range(len(branches))):
      x = branches[i]
      if maps:
        x = x + resizing.resize_in_stages(
          maps[0], x.shape[1:3], True, self.options.resize_ratio
        )
      channels = self.channels[max(i - 1, 0)]
      maps.insert(0, self._separable(channels, norm, f'head{i}')(x, train))
    return maps


class LiteHRNetTiny(LiteHRNet18):
  """One module per stage of one block each, and few channels; for tests."""

  stem: int = 8
  channels: tuple[int, ...] = (16, 24, 32, 40)
  modules: tuple[int, ...] = (1, 1, 1)
  blocks: int = 1
