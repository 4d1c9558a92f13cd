"""DeepLabV3+ with ResNets on iSAID (16 classes, aerial images).

What: DeepLabV3+ with ResNet-18 or 50, output stride 8, as in mmsegmentation:
  crops of 896x896, 80k steps of 16 images.
Reference: arXiv:1802.02611; mmsegmentation's DeepLabV3+ configs.
Data: DOTA images and iSAID masks, cut into patches of 896 pixels here, 384 of
  them shared. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/isaid_resnet.py:r18
Cost: 166 GMACs an image of 896x896 with ResNet-18; not for a CPU.
Expected: no number of ours yet; published mIoU 61.35 (r18) and 67.06 (r50)
  (single scale; experiments/zoo.csv has them all).
Variants: r18 or r50; flip or ms (views of evaluation); smoke (seconds, on
  `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import mmseg


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'isaid_resnet'
  chosen = common.parse_variant(
    c,
    variant,
    encoder=('r18', 'r50'),
    views=common.TTA_VARIANTS,
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'isaid'

  # Model.
  mmseg.set_model(c, chosen['encoder'])

  # Optimizer, schedule and evaluation.
  mmseg.set_training(
    c,
    crop=(896, 896),
    batch_size=16,
    steps=80_000,
    fit_size=(896, 896),
  )
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='resnet_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
