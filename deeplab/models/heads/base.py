"""What every head promises, and what all of them share.

A head is called as `head(features, train, dropout_keys)`:

    features       the encoder's maps, fine to coarse (`encoders/contract.py`)
    train          BatchNorm uses batch statistics, dropout drops
    dropout_keys   typed PRNG keys [B], one an example; None: no dropout

It returns a tuple of logits [B, h, w, num_classes], each of whatever size the
head has them. The first is the prediction. In training (and when parameters are
made) further ones may follow, each with a loss of its own. Modules that only
training runs have names that begin with 'auxiliary'.

Every parametrised submodule is named: parameter paths are an interface that
importers, weight-decay masks and quantisation rules match.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import flax.linen as nn
import jax

from deeplab.models import layers
from deeplab.models import resizing

Array = jax.Array


class Head(nn.Module):
  """The fields of every head.

  Attributes:
    num_classes: number of classes.
    bn_decay, bn_epsilon: see `layers.BatchNormConfig`.
    align_corners: how `resize` samples, see `resizing.resize`.
    options: what the model's layers share.
  """

  num_classes: int
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-5
  align_corners: bool = False
  options: layers.Options = layers.Options()

  @property
  def layer_kwargs(self) -> dict[str, Any]:
    """The fields that all layers with a BatchNorm have in common."""
    return {
      'norm': layers.BatchNormConfig(self.bn_decay, self.bn_epsilon),
      'options': self.options,
    }

  @nn.nowrap
  def resize(self, x: Array, size: Sequence[int]) -> Array:
    """Resizes [B, h, w, C] to `size` (H, W), as the whole model does."""
    ratio = self.options.resize_ratio
    return resizing.resize_in_stages(x, size, self.align_corners, ratio)


def select_low_level_features(features: Sequence[Array], stage: int) -> Array:
  """Returns the map of a stage before the last.

  Raises:
    ValueError: if `stage`, the head's `low_level_stage`, is none.
  """
  if not 0 <= stage < len(features) - 1:
    raise ValueError(
      f'low_level_stage={stage} is not finer than the last of the '
      f'{len(features)} stages that the encoder returns'
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

  Its kernel starts as wide as segmentation_models.pytorch's (Glorot), not from
  the N(0, 0.01) of TF DeepLab and mmsegmentation: the first steps of an
  adaptive optimiser outweigh so narrow a start, all features turn one way, and
  rare classes are left where every ReLU is off.
  """
  return layers.Conv(
    num_classes,
    kernel=kernel,
    use_bias=use_bias,
    options=dataclasses.replace(options, dtype='float32'),
    kernel_init=nn.initializers.glorot_uniform(),
    name=name,
  )
