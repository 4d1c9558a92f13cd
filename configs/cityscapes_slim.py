"""TF DeepLab's Cityscapes networks: MobileNetV2, MobileNetV3 and Xception-65.

What: MobileNetV2 with image pooling alone, MobileNetV3-Large with LR-ASPP at
  output stride 32, or DeepLabV3+ Xception-65; trained on crops of 769x769 and
  meant for whole images of 1025x2049.
Reference: arXiv:1802.02611, arXiv:1801.04381, arXiv:1905.02244; the model zoo
  of tensorflow/models research/deeplab.
Data: leftImg8bit and gtFine, official layout. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/cityscapes_slim.py:mnv2
Cost: 21 (mnv2), 7.6 (mnv3) and 418 (xception65) GMACs an image of 1025x2049.
Expected: no number of ours yet, and from random weights unless init_from is
  set; published mIoU 70.71 (mnv2), 72.41 (mnv3) and 78.79 (xception65), the
  last two after ImageNet.
Variants: mnv2, mnv3 or xception65; flip or ms (views of evaluation); smoke
  (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import slim

NETWORKS = ('mnv2', 'mnv3', 'xception65')  # keys of `slim.NETWORKS`


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'cityscapes_slim'
  chosen = common.parse_variant(
    c, variant, network=NETWORKS, views=common.TTA_VARIANTS, run=('', 'smoke')
  )

  # Data.
  c.data.name = 'cityscapes'

  # Model.
  slim.set_model(c, chosen['network'])

  # Training and evaluation. Files are exported for whole images of 1024x2048,
  # with one more row and column.
  slim.set_training(
    c,
    steps=90_000,
    crop=(769, 769),
    canvas=(1025, 2049),
    export=(1025, 2049),
  )
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(c, encoder='mobilenet_v2_tiny', channels=16)
  return common.finalize_config(c)
