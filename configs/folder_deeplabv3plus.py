"""DeepLabV3+ with a larger encoder on a folder of your own images and masks.

What: DeepLabV3+ with ResNet-50, ResNet-101 or MobileNetV3-Large, output stride
  16, at 320, 640 or 1024 pixels: the models that Datature offers. For a small
  network, and with few images, start from configs/folder_mnv2.py.
Reference: arXiv:1802.02611, arXiv:1512.03385 and arXiv:1905.02244.
Data: ROOT/{train,val}/{images,labels}/STEM.*, or ROOT/{train,val}.txt with
  `image label` lines.
Command: python -m deeplab.main --config=configs/folder_deeplabv3plus.py:r50
  --config.data.root=ROOT --config.data.num_classes=11
Cost: 15 (r50), 22 (r101) and 2.2 (mnv3) GMACs an image of 320x320; 4 and 10
  times that at 640 and 1024.
Expected: no number of ours yet; none is published.
Variants: r50, r101 or mnv3; size320, size640 or size1024; imagenet
  (torchvision's weights, fetched once, best with few images); smoke (seconds,
  on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import folder

# The encoder, and ImageNet's weights of it.
ENCODERS = {
  'r50': ('resnet_50', 'torchvision:resnet50'),
  'r101': ('resnet_101', 'torchvision:resnet101'),
  'mnv3': ('mobilenet_v3_large', 'torchvision:mobilenet_v3_large'),
}
SIZES = {'size320': (320, 320), 'size640': (640, 640), 'size1024': (1024, 1024)}


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'folder_deeplabv3plus'
  chosen = common.parse_variant(
    c, variant, encoder=ENCODERS, size=SIZES, run=('', 'imagenet', 'smoke')
  )

  # Data.
  folder.set_data(c)
  common.set_sizes(c, SIZES[chosen['size']])

  # Model.
  encoder, weights = ENCODERS[chosen['encoder']]
  c.model.encoder = ConfigDict({'name': encoder})
  c.model.head = ConfigDict({'name': 'deeplabv3plus', 'rates': (6, 12, 18)})

  # mIoU averages over classes, and some have few pixels.
  c.loss.balance = 0.5

  if chosen['run'] == 'imagenet':
    c.init_from = weights
  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='resnet_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
