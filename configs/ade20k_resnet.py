"""DeepLabV3+ with ResNets on ADE20K (150 classes).

What: DeepLabV3+ with ResNet-50 or 101, output stride 8, as in mmsegmentation:
  crops of 512x512, 80k or 160k steps of 16 images.
Reference: arXiv:1802.02611; mmsegmentation's DeepLabV3+ configs.
Data: ADEChallengeData2016, official layout. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/ade20k_resnet.py:r50,80k
Cost: 177 GMACs an image of 512x512 with ResNet-50; not for a CPU.
Expected: no number of ours yet; published mIoU 42.72 (r50,80k) to 45.47
  (r101,160k) (single scale; experiments/zoo.csv has them all).
Variants: r50 or r101; 80k or 160k steps; flip or ms (views of evaluation);
  smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import mmseg

STEPS = {'80k': 80_000, '160k': 160_000}


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'ade20k_resnet'
  chosen = common.parse_variant(
    c,
    variant,
    encoder=('r50', 'r101'),
    steps=STEPS,
    views=common.TTA_VARIANTS,
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'ade20k'

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
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='resnet_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
