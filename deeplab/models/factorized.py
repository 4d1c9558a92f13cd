"""Residual blocks of 3x1 and 1x3 convolutions: ERFNet's.

Romera et al., "ERFNet: Efficient Residual Factorized ConvNet for Real-Time
Semantic Segmentation" (2017), figure 2 c: the "non-bottleneck-1D" block.
"""

import flax.linen as nn
import jax

from deeplab.models import layers

Array = jax.Array


class NonBottleneck1D(nn.Module):
  """Two pairs of a 3x1 and a 1x3 convolution, added to their input.

  There is a ReLU behind each convolution, and behind each pair a BatchNorm
  before it; all convolutions have a bias.

  Attributes:
    rate: atrous rate of the second pair.
    norm: BatchNorm constants.
    padding: see `layers.explicit_padding`.
    options: what the model's layers share.
  """

  rate: int
  norm: layers.BatchNormConfig
  padding: layers.Padding
  options: layers.Options

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to the same shape."""
    y = x
    for i, rate in enumerate((1, self.rate), start=1):
      y = layers.Conv(
        x.shape[-1],
        kernel=(3, 1),
        rate=rate,
        use_bias=True,
        padding=self.padding,
        options=self.options,
        name=f'conv_{i}_rows',
      )(y)
      y = layers.ConvBN(
        x.shape[-1],
        self.norm,
        kernel=(1, 3),
        rate=rate,
        use_bias=True,
        padding=self.padding,
        activation='relu' if i == 1 else 'none',
        options=self.options,
        name=f'conv_{i}_columns',
      )(jax.nn.relu(y), train)
    return jax.nn.relu(x + y)
