"""Texas Instruments' lite networks (edgeai-torchvision) and their training.

MobileNetV2 with ReLU (the 1.4 times wider one with ReLU6) or RegNetX, and
decoders whose 3x3 layers are depthwise, or of the encoder's group width. Pixels
are normalised as (x - 128) / 64. MobileNetV2 is trained by Adam with a rate
that falls to a quarter twice, RegNetX by SGD with a cosine. Images are resized
to the network's size, whatever their ratio, for training as for evaluation.

The rate falls at two and four fifths of a run, as at epochs 100 and 200 of 250.
Nothing starts from ImageNet's weights here: those that the original had are not
at a public address, and other ones expect other pixel values.

The original brings a table of class weights for each data set; here they are
ENet's rule of the training pixels, which such tables come from.
"""

from typing import Any
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import common

_BN = {'bn_decay': 0.9, 'bn_epsilon': 1e-5}
_MNV2 = {'name': 'mobilenet_v2', 'activation': 'relu', **_BN}


class NetworkSpec(NamedTuple):
  """One network: `encoder` and `head` of `config.model`, and output stride."""

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


def set_model_and_training(
  c: ConfigDict, network: str, *, size: tuple[int, int], batch_size: int
) -> None:
  """Sets model, normalisation, augmentation, optimiser and schedule.

  Args:
    c: the config.
    network: one of `NETWORKS`.
    size: (H, W) of crops and of the exported file.
    batch_size: images a step.
  """
  c.data.mean = (128.0, 128.0, 128.0)
  c.data.std = (64.0, 64.0, 64.0)
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
  c.model.encoder = ConfigDict(NETWORKS[network].encoder)
  c.model.head = ConfigDict(NETWORKS[network].head)
  c.model.output_stride = NETWORKS[network].output_stride
  # Class weights hold in a fifth of the steps.
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
