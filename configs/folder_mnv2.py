"""DeepLabV3+ MobileNetV2 on a folder of your own images and masks.

What: DeepLabV3+ with MobileNetV2 (alpha 1.0), output stride 16, at 256x256
  crops, from scratch or from ImageNet weights. Sizes are multiples of 32, so
  that the exported graph has no PAD and whole resize ratios: crops and export
  size must both be even, or both of the form 32k + 1.
Reference: arXiv:1802.02611 and arXiv:1801.04381.
Data: ROOT/{train,val}/{images,labels}/STEM.*, or ROOT/{train,val}.txt with
  `image label` lines, or what labelme, CVAT and others save:
  deeplab/data/builders/folder.py.
Command: python -m deeplab.main --config=configs/folder_mnv2.py:imagenet
  --config.data.root=ROOT --config.data.num_classes=11
  --config.data.ignore_label=11
Cost: 367 images of 480x360, 30 epochs: under an hour on two CPU cores.
Expected: what configs/camvid_mnv2.py, this recipe on CamVid, has.
Variants: imagenet (Keras' weights, 9 MB, fetched once), smoke (seconds, on
  `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import folder


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '', 'imagenet' or 'smoke'."""
  c = folder.make_config('folder_mnv2')
  run = common.parse_variant(c, variant, run=('', 'imagenet', 'smoke'))['run']
  if run == 'imagenet':
    folder.init_from_imagenet(c)
  if run == 'smoke':
    folder.shrink_to_smoke_test(c)
  return common.finalize_config(c)
