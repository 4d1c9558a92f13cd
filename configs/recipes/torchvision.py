"""torchvision's segmentation networks and their training.

Encoders have output stride 8 (ResNet-50) or 16 (MobileNetV3-Large); heads are
`LRASPP`, `DeepLabHead` and `FCNHead`. Training is SGD with a polynomial
schedule, 30 epochs of batches of 32, on crops of 480x480 of images whose
shorter side is resized to 260 to 1040 pixels; the auxiliary head learns ten
times as fast. Evaluation resizes the shorter side to 520. Crops are padded with
black, images in evaluation not at all (its batches hold one image): the network
is compiled once per size. --config.eval.pad_multiple=32 pads images so that
fewer sizes occur, and image pooling then sees the padding.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

_R50 = {'name': 'resnet_50'}
_MNV3 = {
  'name': 'mobilenet_v3_large',
  'dilation_rule': 'torchvision',
  'tap': 'first',
}
_DEEPLAB = {
  'name': 'deeplabv3',
  'rates': (12, 24, 36),
  'refine': 'dense',
  'aspp_dropout': 0.5,
}

# ImageNet's weights.
IMAGENET_WEIGHTS = {
  'resnet_50': 'torchvision:resnet50',
  'mobilenet_v3_large': 'torchvision:mobilenet_v3_large',
}

# Fields of `config.model`, and (stage, channels) of the auxiliary head.
NETWORKS: dict[str, dict[str, Any]] = {
  'fcn_r50': {
    'encoder': _R50,
    'head': {'name': 'fcn', 'stage': 4, 'channels': 512},
    'output_stride': 8,
    'auxiliary': (3, 256),
  },
  'deeplabv3_r50': {
    'encoder': _R50,
    'head': _DEEPLAB,
    'output_stride': 8,
    'auxiliary': (3, 256),
  },
  'deeplabv3_mnv3': {
    'encoder': _MNV3,
    'head': _DEEPLAB,
    'output_stride': 16,
    'auxiliary': (2, 10),
  },
  'lraspp_mnv3': {
    'encoder': _MNV3,
    'head': {'name': 'lraspp'},
    'output_stride': 16,
    'auxiliary': None,
  },
}


def set_model(c: ConfigDict, network: str) -> None:
  """Sets the encoder, the heads and ImageNet weights to start from.

  Args:
    c: the config.
    network: a key of `NETWORKS`.
  """
  chosen = NETWORKS[network]
  c.init_from = IMAGENET_WEIGHTS[chosen['encoder']['name']]
  c.model.encoder = ConfigDict(chosen['encoder'])
  c.model.head = ConfigDict(chosen['head'])
  c.model.unbiased_variance = True
  c.model.output_stride = chosen['output_stride']
  if chosen['auxiliary']:
    stage, channels = chosen['auxiliary']
    c.model.auxiliary = ConfigDict(
      {'name': 'fcn', 'stage': stage, 'channels': channels, 'dropout': 0.1}
    )


def set_training(
  c: ConfigDict, network: str, *, crop: tuple[int, int], export: tuple[int, int]
) -> None:
  """Sets augmentation, optimizer, schedule and evaluation.

  Args:
    c: the config.
    network: a key of `NETWORKS`; MobileNetV3 has half the learning rate.
    crop: (H, W) of training.
    export: (H, W) of the exported file.
  """
  if NETWORKS[network]['auxiliary']:
    c.loss.auxiliary_weight = 0.5
    c.optimizer.auxiliary_multiplier = 10.0
  c.data.augment.ops = (*('random_short_side', 'random_crop', 'random_flip'),)
  c.data.augment.fill = (0.0, 0.0, 0.0)
  c.batch_size = 32
  c.epochs = 30.0
  c.optimizer.name = 'sgd'
  c.optimizer.learning_rate = 0.02
  c.optimizer.weight_decay = 1e-4
  if network.endswith('mnv3'):
    c.optimizer.learning_rate = 0.01
    c.optimizer.weight_decay = 1e-6
  c.optimizer.decay_mask = '.*'
  c.schedule.warmup_steps = 0
  common.set_sizes(c, crop, export)
  c.eval.fit = (65536, 520)  # the shorter side, however long the other is
  c.eval.pad_multiple = 1
  c.eval.resize_labels = True
  c.checkpoint.every_steps = 1000
