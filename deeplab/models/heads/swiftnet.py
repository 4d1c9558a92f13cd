"""SwiftNet's decoder: spatial pyramid pooling, and lateral additions.

Orsic et al., "In Defense of Pre-trained ImageNet Architectures for Real-time
Semantic Segmentation of Road-driving Images" (2019, arXiv:1903.08469), its
single-scale model. Each convolution comes after its own BatchNorm and ReLU.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models import pooling
from deeplab.models.heads import base

Array = jax.Array


class BNReLUConv(nn.Module):
  """BatchNorm, ReLU, then a convolution.

  Attributes:
    features: output channels.
    kernel: kernel size.
    norm: BatchNorm constants.
    options: compute options of the whole model.
  """

  features: int
  kernel: int
  norm: layers.BatchNormConfig
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to [B, H, W, features]."""
    x = layers.BatchNorm(self.norm, 'relu', self.options, name='norm')(x, train)
    return layers.Conv(
      self.features, kernel=self.kernel, options=self.options, name='conv'
    )(x)


class SwiftNet(base.Head):
  """Maps feature maps to logits [B, h, w, num_classes] of the finest map used.

  Fields of `base.Head`, and

  Attributes:
    stages: indices of the finer maps, from fine to coarse; 1, 2, 3 are strides
      4, 8 and 16.
    channels: channels of the pyramid and of every decoder stage.
    grids: rows of cells of each pooling of the last map; the number of columns
      makes the cells about square.
  """

  stages: tuple[int, ...] = (1, 2, 3)
  channels: int = 128
  grids: tuple[int, ...] = (8, 4, 2, 1)

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`.

    Raises:
      ValueError: the `stages` do not ascend or are not finer than the encoder's
        last; in training, if a BatchNorm would see one value per channel.
    """
    del dropout_keys  # this head has no dropout
    indices = range(len(features) - 1)
    if list(self.stages) != [i for i in indices if i in self.stages]:
      raise ValueError(
        f'stages={self.stages} must ascend and be finer than the last of the '
        f'{len(features)} stages that the encoder returns (0 is the finest)'
      )
    x = self._pyramid(features[-1], train)
    for stage in reversed(self.stages):
      skip = features[stage]
      size = skip.shape[1:3]
      skip = self._conv(self.channels, 1, f'skip{stage}')(skip, train)
      x = skip + self.resize(x, size)
      x = self._conv(self.channels, 3, f'decoder{stage}')(x, train)
    x = layers.BatchNorm(
      self.norm, 'relu', self.options, name='classifier_norm'
    )(x, train)
    return (base.make_classifier(self.num_classes, self.options)(x),)

  def _conv(self, features: int, kernel: int, name: str) -> BNReLUConv:
    return BNReLUConv(features, kernel, self.norm, self.options, name=name)

  def _pyramid(self, x: Array, train: bool) -> Array:
    """Fuses the last map with its means over cells to [B, h, w, channels]."""
    if train and 1 in self.grids and not self.is_initializing():
      pooling.check_batch_size(x.shape[0], self.options)
    size = x.shape[1:3]
    x = self._conv(self.channels, 1, 'reduce')(x, train)
    levels = [x]
    for i, rows in enumerate(self.grids):
      columns = max(1, round(rows * size[1] / size[0]))
      cells = pooling.adaptive_average_pool(x, (rows, columns), train)
      cells = self._conv(self.channels // len(self.grids), 1, f'pool{i}')(
        cells, train
      )
      levels.append(self.resize(cells, size))
    x = jnp.concatenate(levels, axis=-1)
    return self._conv(self.channels, 1, 'fuse')(x, train)
