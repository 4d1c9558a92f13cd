"""DeepLabV3+ with ResNet-101 on Pascal Context (60 or 59 classes).

What: DeepLabV3+ with ResNet-101, output stride 8, as in mmsegmentation: crops
  of 480x480, 40k or 80k steps of 16 images, a lower learning rate, and
  evaluation by windows.
Reference: arXiv:1802.02611; mmsegmentation's DeepLabV3+ configs.
Data: VOC 2010 and the masks of Pascal Context. --config.data.root=ROOT
Command: python -m deeplab.main
  --config=configs/pascal_context_resnet.py:c60,40k
Cost: 223 GMACs an image of 480x480; not for a CPU.
Expected: no number of ours yet; published mIoU 47.30 (c60,40k) and 53.2
  (c59,80k) (single scale; experiments/zoo.csv has them all).
Variants: c60 (with the background) or c59; 40k or 80k steps; flip or ms (views
  of evaluation); smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import mmseg

DATASETS = {'c60': 'pascal_context60', 'c59': 'pascal_context59'}
STEPS = {'40k': 40_000, '80k': 80_000}


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'pascal_context_resnet'
  chosen = common.parse_variant(
    c,
    variant,
    classes=DATASETS,
    steps=STEPS,
    views=common.TTA_VARIANTS,
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = DATASETS[chosen['classes']]

  # Model.
  mmseg.set_model(c, 'r101')

  # Optimizer, schedule and evaluation.
  mmseg.set_training(
    c,
    crop=(480, 480),
    batch_size=16,
    steps=STEPS[chosen['steps']],
    fit_size=(520, 520),
  )
  c.optimizer.learning_rate = 0.004
  c.optimizer.weight_decay = 1e-4
  c.eval.mode = 'slide'
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='resnet_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
