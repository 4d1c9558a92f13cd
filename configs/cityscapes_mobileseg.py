"""PaddleSeg's MobileSeg on Cityscapes.

What: a small pooled context and a decoder of additions, after MobileNetV2,
  MobileNetV3-Large, Lite-HRNet-18, ShuffleNetV2 or GhostNet, at output stride
  32 (Lite-HRNet 16): crops of 512x1024, 80k steps of 16 images. Each of the
  decoder's three levels has a loss of its own.
Reference: PaddleSeg's MobileSeg; arXiv:1801.04381, arXiv:1905.02244,
  arXiv:2104.06403, arXiv:1807.11164, arXiv:1911.11907.
Data: leftImg8bit and gtFine, official layout. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/cityscapes_mobileseg.py:mnv2
Cost: 1.5 (ghostnet, shufflenet) to 3.2 (mnv2) GMACs an image of 512x1024.
Expected: no number of ours yet, and from random weights unless init_from is
  set; published mIoU 73.94 (mnv2), 73.47 (mnv3), 70.75 (hrnet), 69.46
  (shufflenet) and 71.88 (ghostnet).
Variants: mnv2, mnv3, hrnet, shufflenet or ghostnet; flip or ms (views of
  evaluation); smoke (seconds, on `shapes` if no root is given).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

_BN = {'bn_decay': 0.9, 'bn_epsilon': 1e-5}
ENCODERS: dict[str, dict[str, Any]] = {
  'mnv2': {'name': 'mobilenet_v2', 'expand_first': True, **_BN},
  'mnv3': {
    'name': 'mobilenet_v3_large',
    'expand_always': True,
    'squeeze': 'exact',
    'gate': 'hard_sigmoid_paddle',
    'top_conv': False,
    **_BN,
  },
  'hrnet': {'name': 'lite_hrnet_18'},
  'shufflenet': {'name': 'shufflenet_v2'},
  'ghostnet': {'name': 'ghostnet'},
}


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'cityscapes_mobileseg'
  chosen = common.parse_variant(
    c, variant, encoder=ENCODERS, views=common.TTA_VARIANTS, run=('', 'smoke')
  )

  # Data.
  c.data.name = 'cityscapes'
  c.data.mean = (127.5, 127.5, 127.5)
  c.data.std = (127.5, 127.5, 127.5)
  c.data.augment.ops = (
    *('random_scale', 'random_crop', 'random_flip', 'distort'),
  )
  c.data.augment.random_scale.step = 0.25
  c.data.augment.shrink = 'bilinear'
  c.data.augment.nearest = 'corner'
  common.set_sizes(c, (512, 1024))

  # Model.
  c.model.encoder = ConfigDict(ENCODERS[chosen['encoder']])
  c.model.head = ConfigDict({'name': 'mobileseg'})
  c.model.unbiased_variance = True
  c.model.output_stride = 32
  if chosen['encoder'] == 'hrnet':
    # Its maps are finer: the decoder takes strides 4, 8 and 16.
    c.model.head.stages = (1, 2, 3)
    c.model.output_stride = 16
  # Loss: 130,000 of a device's four crops are kept in any case.
  c.loss.terms = ('ohem',)
  c.loss.ohem.update({'threshold': 0.7, 'min_kept': 32_500})
  c.loss.auxiliary_weight = 1.0

  # Optimizer and schedule.
  c.batch_size = 16
  c.total_steps = 80_000
  c.optimizer.name = 'sgd'
  c.optimizer.learning_rate = 0.005
  c.optimizer.weight_decay = 5e-4
  c.optimizer.decay_mask = '.*'
  c.schedule.update(
    {'warmup_steps': 1000, 'warmup_start': 1e-5 / 0.005, 'warmup_first': True}
  )
  c.checkpoint.every_steps = 1000
  common.set_test_time_augmentation(
    c, chosen['views'], scales=(0.75, 1.0, 1.25)
  )

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='mobilenet_v2_tiny', context_channels=16
    )
  return common.finalize_config(c)
