"""mmsegmentation's DeepLabV3+ with ResNets (`DepthwiseSeparableASPPHead`).

The network is a ResNet whose stem has three 3x3 layers (`v1c`; torchvision's
stem in the encoders whose token ends in b), a separable ASPP whose projection
is 3x3, and an auxiliary FCN head on stage 3. Training is SGD from 0.01 with a
polynomial schedule to 1e-4, weight decay 5e-4 on all parameters, and a loss
averaged over all pixels, ignored ones included.

Whole images are evaluated at their own sizes, and the network is compiled once
per size: --config.eval.pad_multiple=32 pads images so that fewer sizes occur.
"""

from ml_collections import ConfigDict

from configs import common

ENCODERS = {
  'r18': {'name': 'resnet_18', 'stem': 'v1c'},
  'r50': {'name': 'resnet_50', 'stem': 'v1c'},
  'r101': {'name': 'resnet_101', 'stem': 'v1c'},
  'r18b': {'name': 'resnet_18', 'stem': 'v1'},
  'r50b': {'name': 'resnet_50', 'stem': 'v1'},
  'r101b': {'name': 'resnet_101', 'stem': 'v1'},
}
# ImageNet weights with the stem of each encoder.
IMAGENET_WEIGHTS = {
  'r18': 'mmseg:resnet18_v1c',
  'r50': 'mmseg:resnet50_v1c',
  'r101': 'mmseg:resnet101_v1c',
  'r18b': 'torchvision:resnet18',
  'r50b': 'torchvision:resnet50',
  'r101b': 'torchvision:resnet101',
}


def set_model(
  c: ConfigDict,
  encoder: str,
  *,
  multi_grid: bool = False,
  align_corners: bool = False,
) -> None:
  """Sets the encoder, the heads and ImageNet weights to start from.

  Args:
    c: the config.
    encoder: a key of `ENCODERS`.
    multi_grid: True for output stride 16 with rates 1, 2, 4 in the last stage
      and online hard example mining; False for output stride 8.
    align_corners: whether resizes align corners.

  Raises:
    ValueError: `multi_grid` (three units) for an encoder with two units.
  """
  small = encoder.startswith('r18')
  if small and multi_grid:
    raise ValueError(
      f'variant mg124 has rates for three units, but the last stage of '
      f'{encoder} has two; choose r50 or r101'
    )
  c.init_from = IMAGENET_WEIGHTS[encoder]
  c.model.encoder = ConfigDict(ENCODERS[encoder])
  if small:
    c.model.encoder.basic_dilation = 'first'
  c.model.output_stride = 8
  if multi_grid:
    c.model.encoder.multi_grid_mode = 'replace'
    c.model.multi_grid = (1, 2, 4)
    c.model.output_stride = 16
    # OHEM of the 100,000 hardest pixels per image.
    c.loss.terms = ('ohem',)
    c.loss.auxiliary_terms = ('cross_entropy',)
  channels = 128 if small else 512
  c.model.head = ConfigDict(
    {
      'name': 'deeplabv3plus',
      'rates': (6, 12, 18) if multi_grid else (12, 24, 36),
      'channels': channels,
      'decoder_channels': channels,
      'low_level_channels': 12 if small else 48,
      'projection_kernel': 3,
      'aspp_dropout': 0.0,
      'dropout': 0.1,
      'dropout_channels': True,
      'align_corners': align_corners,
    }
  )
  c.model.auxiliary = ConfigDict(
    {
      'name': 'fcn',
      'stage': 3,
      'channels': 64 if small else 256,
      'dropout': 0.1,
      'dropout_channels': True,
      'align_corners': align_corners,
    }
  )
  c.model.unbiased_variance = True
  c.model.classifier_stddev = 0.01
  c.loss.auxiliary_weight = 0.4
  c.eval.pad_offset = int(align_corners)


def set_training(
  c: ConfigDict,
  *,
  crop: tuple[int, int],
  batch_size: int,
  steps: int,
  fit_size: tuple[int, int],
  eval_fit_size: tuple[int, int] | None = None,
) -> None:
  """Sets augmentation, loss, optimizer, schedule and evaluation.

  Args:
    c: the config.
    crop: (H, W).
    batch_size: images per step.
    steps: length of the run.
    fit_size: (long, short) that images are resized to fit into, before the
      random factor.
    eval_fit_size: the same for single-scale evaluation; None for `fit_size`.
  """
  c.data.augment.ops = (
    *('random_fit', 'random_crop', 'random_flip', 'photometric', 'pad'),
  )
  c.data.augment.random_fit.long, c.data.augment.random_fit.short = fit_size
  c.data.augment.random_crop.max_class_share = 0.75
  c.data.augment.random_crop.padded = False
  c.data.augment.shrink = 'bilinear'
  c.data.augment.nearest = 'corner'
  c.loss.normalizer = 'all'
  c.batch_size = batch_size
  c.total_steps = steps
  c.optimizer.name = 'sgd'
  c.optimizer.learning_rate = 0.01
  c.optimizer.weight_decay = 5e-4
  c.optimizer.decay_mask = '.*'
  c.schedule.warmup_steps = 0
  c.schedule.poly.end = 1e-4
  common.set_sizes(c, crop)
  c.eval.fit = eval_fit_size or fit_size
  c.eval.pad_multiple = 1
  c.checkpoint.every_steps = 1000
