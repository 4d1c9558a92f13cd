"""torchvision's ResNet-50 networks on Cityscapes.

What: FCN or DeepLabV3 with ResNet-50, output stride 8, at 520x1040.
Reference: arXiv:1411.4038, arXiv:1706.05587; torchvision's segmentation models.
Data: leftImg8bit and gtFine, official layout. --config.data.root=ROOT
Command: python -m deeplab.main
  --config=configs/cityscapes_torchvision.py:deeplabv3_r50
Cost: 285 (fcn_r50) and 337 (deeplabv3_r50) GMACs an image; not for a CPU.
Expected: no number of ours yet; published mIoU 71.6 (fcn_r50) and 73.5
  (deeplabv3_r50).
Variants: fcn_r50 or deeplabv3_r50; smoke (seconds, on `shapes` if no root is
  given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import torchvision


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'cityscapes_torchvision'
  chosen = common.parse_variant(
    c, variant, network=('fcn_r50', 'deeplabv3_r50'), run=('', 'smoke')
  )

  # Data.
  c.data.name = 'cityscapes'

  # Model, optimizer, schedule and evaluation.
  size = (520, 1040)
  torchvision.set_model(c, chosen['network'])
  torchvision.set_training(c, chosen['network'], crop=size, export=size)

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(c, encoder='resnet_tiny', channels=16)
  return common.finalize_config(c)
