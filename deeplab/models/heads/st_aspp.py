"""STMicroelectronics' ASPP heads, whose rates follow the map's height.

The STM32 model zoo's DeepLabV3 for microcontrollers, re-implemented from the
description beside its published weights. Its encoder is a MobileNetV2 that is
cut at stride 16 and has no atrous layers. The head is the pyramid of DeepLabV3
with three differences: the rates are 1, 2 and 3 times a fifth of the map's
rows, every convolution has a bias as well as its BatchNorm, and dropout is
strong.

* ASPPv2, the published one: the defaults, with `bn_decay=0.99` and
  `bn_epsilon=1e-3`. Its atrous branches are depthwise-separable and lose little
  accuracy in int8.
* ASPPv1: `separable=False`.
"""

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models.heads import aspp
from deeplab.models.heads import base

Array = jax.Array


class STASPP(base.Head):
  """Maps feature maps to logits [B, h, w, num_classes] at the last map's size.

  Fields of `base.Head`, and

  Attributes:
    channels: channels of each branch and of the projection.
    separable: atrous branches are depthwise-separable (v2) or dense (v1).
    rates: atrous rates; empty: h // 5 times 1, 2 and 3. Rates that follow the
      height make another function at each input size: to use a network at
      another size than it was trained at, set the rates of training here.
    dropout: share of units dropped before the classifier.
  """

  channels: int = 256
  separable: bool = True
  rates: tuple[int, ...] = ()
  dropout: float = 0.4

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`.

    Raises:
      ValueError: `rates` is empty and the last map has fewer than five rows.
    """
    x = features[-1]
    step = x.shape[1] // 5
    if self.is_initializing():
      step = max(step, 1)  # no parameter depends on the rates
    if not self.rates and not step:
      raise ValueError(
        "the rates follow from the height of the last map, and the map's "
        f'{x.shape[1]} rows are fewer than 5: set the rates, or enlarge the '
        'images'
      )
    keys = layers.fold_keys(dropout_keys if train else None, 0)
    x = aspp.ASPP(
      channels=self.channels,
      rates=self.rates or (step, 2 * step, 3 * step),
      separable=self.separable,
      use_bias=True,
      dropout=self.dropout,
      align_corners=self.align_corners,
      norm=self.norm,
      options=self.options,
      name='aspp',
    )(x, train, keys)
    return (base.make_classifier(self.num_classes, self.options)(x),)
