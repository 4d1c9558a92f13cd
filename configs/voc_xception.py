"""DeepLabV3+ Xception-65 on PASCAL VOC 2012 (trainaug).

What: DeepLabV3+ with the modified aligned Xception-65, output stride 16,
  crops of 513 = 32k + 1: 30k steps of 16 images, SGD with momentum 0.9 and a
  polynomial rate, weight decay 4e-5.
Reference: arXiv:1802.02611, sections 3.2 and 4.2; 82.20 mIoU at eval output
  stride 16 after ImageNet pre-training (trainaug, single scale).
Data: VOC 2012 and the SBD masks, official layout; the error says where to put
  them. --config.data.root=VOCdevkit/VOC2012
Command: python -m deeplab.main --config=configs/voc_xception.py
Cost: a day on one accelerator; not for a CPU.
Expected: no number of ours yet; Texas Instruments publishes 81.74 mIoU for os8.
Variants: os8 (output stride 8, exported at 512x512); flip or ms (views of
  evaluation); smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import slim


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'voc_xception'
  chosen = common.parse_variant(
    c,
    variant,
    output_stride=('', 'os8'),
    views=common.TTA_VARIANTS,
    run=('', 'smoke'),
  )

  os8 = chosen['output_stride'] == 'os8'

  # Data.
  c.data.name = 'voc'
  c.data.train_split = 'trainaug'

  # Model.
  slim.set_model(c, 'xception65', output_stride=8 if os8 else 16)

  # Training and evaluation.
  slim.set_training(
    c,
    steps=30_000,
    crop=(513, 513),
    canvas=(513, 513),
    export=(512, 512) if os8 else None,
  )
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='xception_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
