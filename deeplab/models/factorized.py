"""ERFNet's residual blocks of 3x1 and 1x3 convolutions.

Romera et al., "ERFNet: Efficient Residual Factorized ConvNet for Real-Time
Semantic Segmentation" (2017), figure 2 c: the "non-bottleneck-1D" block.
"""

import functools

import flax.linen as nn
import jax

from deeplab.models import layers

Array = jax.Array


class NonBottleneck1D(nn.Module):
  """Two pairs of a 3x1 and a 1x3 convolution, added to their input.

  A ReLU follows each convolution, with a BatchNorm before it at the end of each
  pair; all convolutions have a bias.

  Attributes:
    rate: atrous rate of the second pair.
    norm: BatchNorm constants.
    padding: one of `layers.Padding`.
    options: compute options of the whole model.
  """

  rate: int
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to the same shape."""
    conv = functools.partial(
      layers.Conv,
      x.shape[-1],
      kernel=(3, 1),
      use_bias=True,
      padding=self.padding,
      options=self.options,
    )
    conv_bn = functools.partial(
      layers.ConvBN,
      x.shape[-1],
      norm=self.norm,
      kernel=(1, 3),
      use_bias=True,
      padding=self.padding,
      options=self.options,
    )
    y = x
    for i, rate in enumerate((1, self.rate), start=1):
      activation = 'relu' if i == 1 else 'none'
      y = jax.nn.relu(conv(rate=rate, name=f'conv_{i}_rows')(y))
      y = conv_bn(rate=rate, activation=activation, name=f'conv_{i}_columns')(
        y, train
      )
    return jax.nn.relu(x + y)
