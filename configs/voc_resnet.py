"""DeepLabV3+ with ResNets on PASCAL VOC 2012 (trainaug).

What: DeepLabV3+ with ResNet-50 or 101, output stride 8, as in mmsegmentation:
  crops of 512x512, 20k or 40k steps of 16 images.
Reference: arXiv:1802.02611; mmsegmentation's DeepLabV3+ configs.
Data: VOC 2012 and the SBD masks, official layout; the error says where to put
  them. --config.data.root=VOCdevkit/VOC2012
Command: python -m deeplab.main --config=configs/voc_resnet.py:r50,20k
Cost: 176 GMACs an image of 512x512 with ResNet-50; not for a CPU.
Expected: no number of ours yet; published mIoU 75.93 (r50,20k) to 78.62
  (r101,40k) (single scale; experiments/zoo.csv has them all).
Variants: r50 or r101; 20k or 40k steps; flip or ms (views of evaluation); smoke
  (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import mmseg

STEPS = {'20k': 20_000, '40k': 40_000}


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'voc_resnet'
  chosen = common.parse_variant(
    c,
    variant,
    encoder=('r50', 'r101'),
    steps=STEPS,
    views=common.TTA_VARIANTS,
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'voc'
  c.data.train_split = 'trainaug'

  # Model.
  mmseg.set_model(c, chosen['encoder'])

  # Optimizer, schedule and evaluation.
  mmseg.set_training(
    c,
    crop=(512, 512),
    batch_size=16,
    steps=STEPS[chosen['steps']],
    fit_size=(2048, 512),
  )
  # This page of the original alone pads images, before normalization.
  c.data.augment.fill = (0.0, 0.0, 0.0)
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='resnet_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
