"""Texas Instruments' lite networks (edgeai-torchvision) and their training.

The encoder is MobileNetV2 with ReLU (the one of width 1.4 has ReLU6) or
RegNetX. The 3x3 layers of the decoders are depthwise, or grouped with the
encoder's group width. Pixels are normalized as (x - 128) / 64. MobileNetV2 is
trained with Adam and a step schedule, RegNetX with SGD and a cosine schedule.
Training and evaluation resize images to the size of the network without keeping
their aspect ratio.

The step schedule multiplies the rate by 1/4 at 2/5 and 4/5 of the run (epochs
100 and 200 of 250 in the original). Networks start from random weights: the
ImageNet weights of the original have no public address, and other ImageNet
weights expect other pixel values.

The original ships a table of class weights for each data set. Here the weights
are computed from the training labels by the rule of ENet (arXiv:1606.02147),
from which such tables come.
"""

from typing import Any
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import common

_BN = {'bn_decay': 0.9, 'bn_epsilon': 1e-5}
_MNV2 = {'name': 'mobilenet_v2', 'activation': 'relu', **_BN}


class NetworkSpec(NamedTuple):
  """Fields of `config.model`: `encoder`, `head` and `output_stride`."""

  encoder: dict[str, Any]
  head: dict[str, Any]
  output_stride: int = 32


def _regnet_fpn(size: str, channels: int, group: int) -> NetworkSpec:
  head = {'name': 'fpn_lite', 'channels': channels, 'group_size': group}
  return NetworkSpec({'name': f'regnetx_{size}'}, head)


NETWORKS = {
  # Output stride 16 without atrous layers.
  'deeplab': NetworkSpec(
    {**_MNV2, 'atrous': False}, {'name': 'deeplabv3_lite'}, 16
  ),
  'unet': NetworkSpec(_MNV2, {'name': 'unet_lite'}),
  'fpn': NetworkSpec(_MNV2, {'name': 'fpn_lite'}),
  'wide': NetworkSpec(
    {'name': 'mobilenet_v2', 'alpha': 1.4, **_BN},
    {'name': 'fpn_lite', 'channels': 360, 'activation': 'relu6'},
  ),
  'rx400': _regnet_fpn('400mf', 256, 16),
  'rx800': _regnet_fpn('800mf', 256, 16),
  'rx1600': _regnet_fpn('1_6gf', 264, 24),
  'rx3200': _regnet_fpn('3_2gf', 288, 48),
}


def set_model(c: ConfigDict, network: str) -> None:
  """Sets the encoder, the head and the normalization of their input.

  Args:
    c: the config.
    network: a key of `NETWORKS`.
  """
  c.data.mean = (128.0, 128.0, 128.0)
  c.data.std = (64.0, 64.0, 64.0)
  c.model.encoder = ConfigDict(NETWORKS[network].encoder)
  c.model.head = ConfigDict(NETWORKS[network].head)
  c.model.unbiased_variance = True
  c.model.output_stride = NETWORKS[network].output_stride


def set_training(
  c: ConfigDict, network: str, *, size: tuple[int, int], batch_size: int
) -> None:
  """Sets augmentation, loss, optimizer, schedule and evaluation.

  Args:
    c: the config.
    network: a key of `NETWORKS`; RegNetX trains with SGD, the others with Adam.
    size: (H, W) of training images and of the exported file.
    batch_size: images per step.
  """
  c.data.augment.ops = (
    *('random_rotate', 'stretch', 'random_stretch', 'random_crop'),
    'random_flip',
  )
  c.data.augment.random_rotate = ConfigDict(
    {'degrees': 5.0, 'probability': 1.0}
  )
  c.data.augment.stretch.size = size
  c.data.augment.shrink = 'bilinear'
  c.data.augment.nearest = 'corner'
  # Class weights apply in a fifth of the steps.
  c.loss.normalizer = 'all'
  c.loss.balance = 1.0
  c.loss.balance_rule = 'log'
  c.loss.weighted_steps = 0.2
  c.batch_size = batch_size
  c.optimizer.weight_decay = 1e-4
  c.optimizer.decay_mask = '.*'
  if network.startswith('rx'):
    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate = 0.1
    c.schedule.name = 'cosine'
  else:
    c.optimizer.name = 'adam'
    c.optimizer.learning_rate = 4e-4
    c.schedule.name = 'step'
    c.schedule.step.milestones = (0.4, 0.8)
    c.schedule.step.gamma = 0.25
  c.schedule.warmup_steps = 0
  c.schedule.warmup_epochs = 5.0
  common.set_sizes(c, size)
  c.eval.mode = 'static'
  c.checkpoint.every_steps = 1000
