"""Lite R-ASPP, MobileNetV3's head: a gated 1x1 layer plus a finer map's logits.

Howard et al., "Searching for MobileNetV3" (2019, arXiv:1905.02244), figure 10.

* torchvision (`LRASPPHead`): the defaults.
* TF DeepLab (`model.py`, with squeeze-and-excitation and the sum merge):
  `gate='hard_sigmoid_tf'`, `gate_bias=True`, `align_corners=True`. Its
  Cityscapes models, trained on crops of 769, also have `pool_window=(25, 25)`
  and `pool_stride=(4, 5)`: in a larger image the gate varies over the map.
"""

import flax.linen as nn
import jax

from deeplab.models import attention
from deeplab.models import layers
from deeplab.models import pooling
from deeplab.models.heads import base

Array = jax.Array

GATES = {'sigmoid': jax.nn.sigmoid, **attention.GATES}


class LRASPP(base.Head):
  """Maps feature maps to logits [B, h, w, num_classes] at the low-level size.

  Fields of `base.Head`, and

  Attributes:
    channels: channels of the gated layer.
    low_level_stage: index of the finer map in the features; 2 is stride 8.
    gate: 'sigmoid', or one of `attention.GATES`.
    gate_bias: the gate's convolution has a bias.
    pool_window: rows and columns of the window over which the gate averages
      the last map, cropped to the map; empty: the whole map.
    pool_stride: rows and columns from one window to the next; unused without
      `pool_window`.
  """

  channels: int = 128
  low_level_stage: int = 2
  gate: str = 'sigmoid'
  gate_bias: bool = False
  pool_window: tuple[int, ...] = ()
  pool_stride: tuple[int, ...] = (1, 1)

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`.

    Raises:
      ValueError: the gate is unknown, a window or stride is not a pair, or
        `low_level_stage` is not a stage before the last.
    """
    del dropout_keys  # this head has no dropout
    if self.gate not in GATES:
      raise ValueError(f'gate={self.gate!r} is not one of {tuple(GATES)}')
    low = base.select_low_level_features(features, self.low_level_stage)
    high = features[-1]
    size = high.shape[1:3]
    gate = layers.Conv(
      self.channels,
      use_bias=self.gate_bias,
      options=self.options,
      name='gate',
    )(self._pool(high, train))
    x = self.conv_bn(self.channels, name='conv')(high, train)
    x = x * self.resize(GATES[self.gate](gate), size)
    x = self.resize(x, low.shape[1:3])
    logits = [
      base.make_classifier(self.num_classes, self.options, name=name)(y)
      for name, y in (('classifier', x), ('low_level_classifier', low))
    ]
    return (logits[0] + logits[1],)

  def _pool(self, x: Array, train: bool) -> Array:
    """Returns the averaged map that the gate reads, [B, h, w, C]."""
    if not self.pool_window:
      return pooling.adaptive_average_pool(x, 1, train)
    if len(self.pool_window) != 2 or len(self.pool_stride) != 2:
      raise ValueError(
        f'pool_window={self.pool_window} and pool_stride={self.pool_stride} '
        'must be pairs, or pool_window empty'
      )
    height, width = (
      min(window, n)
      for window, n in zip(self.pool_window, x.shape[1:3], strict=True)
    )
    if (height, width) == x.shape[1:3]:
      return pooling.adaptive_average_pool(x, 1, train)
    return pooling.average_pool(x, (height, width), self.pool_stride)
