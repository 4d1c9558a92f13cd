"""DeepLabV3+ with ResNets on ISPRS Potsdam (6 classes, aerial images).

What: DeepLabV3+ with ResNet-18, 50 or 101, output stride 8, as in
  mmsegmentation: crops of 512x512, 80k steps of 16 images.
Reference: arXiv:1802.02611; mmsegmentation's DeepLabV3+ configs.
Data: the raw RGB tiles, cut into patches of 512 pixels here.
  --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/potsdam_resnet.py:r18
Cost: 54 GMACs an image of 512x512 with ResNet-18; not for a CPU.
Expected: no number of ours yet; published mIoU 77.09 (r18), 78.33 (r50) and
  78.7 (r101) (single scale; experiments/zoo.csv has them all).
Variants: r18, r50 or r101; flip or ms (views of evaluation); smoke (seconds, on
  `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import mmseg


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'potsdam_resnet'
  chosen = common.parse_variant(
    c,
    variant,
    encoder=('r18', 'r50', 'r101'),
    views=common.TTA_VARIANTS,
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'potsdam'

  # Model.
  mmseg.set_model(c, chosen['encoder'])

  # Optimizer, schedule and evaluation.
  mmseg.set_training(
    c,
    crop=(512, 512),
    batch_size=16,
    steps=80_000,
    fit_size=(512, 512),
  )
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='resnet_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
