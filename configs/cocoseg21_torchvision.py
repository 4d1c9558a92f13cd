"""torchvision's networks on COCO with VOC's 21 classes.

What: LR-ASPP or DeepLabV3 with MobileNetV3-Large, or DeepLabV3 with ResNet-50,
  trained on crops of 480 and meant for images of 520.
Reference: torchvision's segmentation models and their training references.
Data: COCO 2017 images and instances. --config.data.root=ROOT
Command: python -m deeplab.main
  --config=configs/cocoseg21_torchvision.py:lraspp_mnv3
Cost: 2.1 (lraspp_mnv3) to 179 (deeplabv3_r50) GMACs an image of 520x520.
Expected: no number of ours yet; published mIoU 57.9 (lraspp_mnv3), 60.3
  (deeplabv3_mnv3) and 66.4 (deeplabv3_r50).
Variants: lraspp_mnv3, deeplabv3_mnv3 or deeplabv3_r50; smoke (seconds, on
  `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import torchvision


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'cocoseg21_torchvision'
  chosen = common.parse_variant(
    c,
    variant,
    network=('lraspp_mnv3', 'deeplabv3_mnv3', 'deeplabv3_r50'),
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'cocoseg21'

  # Model, optimizer, schedule and evaluation.
  torchvision.set_model(c, chosen['network'])
  torchvision.set_training(
    c, chosen['network'], crop=(480, 480), export=(520, 520)
  )

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(c, encoder='mobilenet_v3_tiny', channels=16)
  return common.finalize_config(c)
