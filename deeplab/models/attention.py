"""Attention over channels: squeeze-and-excitation.

Hu et al., "Squeeze-and-Excitation Networks" (2018, arXiv:1709.01507), in the
form of MobileNetV3: 1x1 convolutions with biases on the mean of the map, ReLU
between them, and a gate after them, usually a hard sigmoid.
"""

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models import pooling

Array = jax.Array


def hard_sigmoid(
  x: Array, slope: float, offset: float, max_value: float
) -> Array:
  """Computes the gate relu6(slope * x + offset) * max_value / 6.

  Int8 graphs fuse a ReLU6 into the operator before it; clipping to [0, 1] would
  take operators of its own. The simulation of int8 replaces this function, and
  expects positional arguments.

  Args:
    x: any shape.
    slope: slope of the ReLU6's argument.
    offset: offset of the ReLU6's argument.
    max_value: the largest value of the gate.
  """
  return jax.nn.relu6(slope * x + offset) * (max_value / 6)


# The gates of published systems.
GATES: dict[str, Callable[[Array], Array]] = {
  # The paper's, torchvision's and Keras'.
  'hard_sigmoid': layers.ACTIVATIONS['hard_sigmoid'],
  # TF-slim rounds the sixth.
  'hard_sigmoid_tf': lambda x: hard_sigmoid(x, 1.0, 3.0, 6 * 0.16667),
  # clip(0.2 x + 0.5, 0, 1), as Paddle's MobileNetV3 has it.
  'hard_sigmoid_paddle': lambda x: hard_sigmoid(x, 1.2, 3.0, 1.0),
  # clip(x, 0, 1), as Paddle's GhostNet has it.
  'clip': lambda x: hard_sigmoid(x, 6.0, 0.0, 1.0),
  # Lite-HRNet's.
  'sigmoid': jax.nn.sigmoid,
}


class SqueezeExcite(nn.Module):
  """Multiplies each channel by a gate computed from all channels' means.

  Attributes:
    squeezed: channels between the two convolutions, `reduce` and `expand`.
    gate: one of `GATES`.
    options: compute options of the whole model.
    kernel_init: initializer of both kernels.
  """

  squeezed: int
  gate: str = 'hard_sigmoid'
  options: layers.Options = layers.Options()
  kernel_init: Any = nn.initializers.he_normal()

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to the same shape."""
    conv = functools.partial(
      layers.Conv,
      use_bias=True,
      options=self.options,
      kernel_init=self.kernel_init,
    )
    y = pooling.adaptive_average_pool(x, 1, train)
    y = conv(self.squeezed, name='reduce')(y)
    y = jax.nn.relu(y)
    y = conv(x.shape[-1], name='expand')(y)
    return x * GATES[self.gate](y)
