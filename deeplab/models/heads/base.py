"""The interface of a head, and the code that all heads share.

A head is called as `head(features, train, dropout_keys)`:

    features       the encoder's maps, fine to coarse (`encoders/contract.py`)
    train          BatchNorm uses batch statistics, dropout drops
    dropout_keys   typed PRNG keys [B], one per example; None: no dropout

It returns a tuple of logits [B, h, w, num_classes], each at the size that the
head computes. The first entry is the prediction. In training (and when
parameters are initialized) further entries may follow, each with a loss of its
own. Submodules that only training runs have names that begin with 'auxiliary'.

Every submodule with parameters is named: parameter paths are an interface that
weight importers, weight-decay masks and quantization rules match.
"""

from collections.abc import Sequence
import dataclasses
import functools

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models import resizing

Array = jax.Array


class Head(nn.Module):
  """The fields of every head.

  `conv_bn` and `separable_conv_bn` make layers with these fields filled in, so
  that a head only sets the fields that differ between its layers.

  Attributes:
    num_classes: number of classes.
    bn_decay, bn_epsilon: fields of `layers.BatchNormConfig`.
    align_corners: sampling grid of `resize`: corner pixels keep their centers
      (True), or pixel areas keep their borders (False).
    options: compute options of the whole model.
  """

  num_classes: int
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-5
  align_corners: bool = False
  options: layers.Options = layers.Options()

  @property
  def norm(self) -> layers.BatchNormConfig:
    """BatchNorm constants of all layers of the head."""
    return layers.BatchNormConfig(self.bn_decay, self.bn_epsilon)

  @property
  def conv_bn(self) -> functools.partial[layers.ConvBN]:
    """`layers.ConvBN` with the head's norm and options."""
    return functools.partial(
      layers.ConvBN, norm=self.norm, options=self.options
    )

  @property
  def separable_conv_bn(self) -> functools.partial[layers.SeparableConvBN]:
    """`layers.SeparableConvBN` with the head's norm and options."""
    return functools.partial(
      layers.SeparableConvBN, norm=self.norm, options=self.options
    )

  @nn.nowrap
  def resize(self, x: Array, size: Sequence[int]) -> Array:
    """Resizes [B, h, w, C] to [B, H, W, C], in stages where options limit it.

    Args:
      x: [B, h, w, C].
      size: (H, W).
    """
    ratio = self.options.resize_ratio
    return resizing.resize_in_stages(x, size, self.align_corners, ratio)


def select_low_level_features(features: Sequence[Array], stage: int) -> Array:
  """Returns the feature map of a stage before the last, [B, h, w, C].

  Args:
    features: the encoder's maps [B, h, w, C], fine to coarse.
    stage: index of the map, the head's `low_level_stage`.

  Raises:
    ValueError: there is no such stage before the last.
  """
  if not 0 <= stage < len(features) - 1:
    raise ValueError(
      f'low_level_stage={stage} must be finer than the last of the '
      f'{len(features)} stages that the encoder returns (0 is the finest)'
    )
  return features[stage]


def make_classifier(
  num_classes: int,
  options: layers.Options,
  *,
  kernel: int = 1,
  use_bias: bool = True,
  name: str = 'classifier',
) -> layers.Conv:
  """Returns the convolution to logits, computed in float32.

  The kernel is initialized by Glorot, as in segmentation_models.pytorch, unless
  `options.classifier_stddev` gives the N(0, 0.01) of TF DeepLab and
  mmsegmentation. The first steps of an adaptive optimizer are large compared
  with so small an initial kernel: all features are pushed in one direction, and
  rare classes end where every ReLU is off. Their recipes use SGD.

  Args:
    num_classes: output channels.
    options: compute options of the model; the dtype is replaced.
    kernel: kernel size.
    use_bias: adds a bias.
    name: name of the module.
  """
  return layers.Conv(
    num_classes,
    kernel=kernel,
    use_bias=use_bias,
    options=dataclasses.replace(options, dtype='float32'),
    kernel_init=(
      nn.initializers.normal(options.classifier_stddev)
      if options.classifier_stddev
      else nn.initializers.glorot_uniform()
    ),
    name=name,
  )
