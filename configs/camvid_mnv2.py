"""DeepLabV3+ MobileNetV2 on CamVid's 11 classes, from ImageNet weights.

What: DeepLabV3+ with MobileNetV2 (alpha 1.0), output stride 16: 30 epochs of
  crops of 288x384 (256x256 from scratch), AdamW, rare classes weighted, an
  average of the weights. The encoder learns at a third of the head's rate.
Reference: arXiv:1802.02611 and arXiv:1801.04381; CamVid in SegNet's split,
  arXiv:1511.00561.
Data: ROOT/{train,val}/{images,labels}/STEM.*: 367 and 101 images of 480x360,
  ids 0 to 10, 11 ignored.
Command: python -m deeplab.main --config=configs/camvid_mnv2.py
  --config.data.root=ROOT
Cost: an hour on two CPU cores (half of that from scratch).
Expected: val mIoU 0.68; from scratch 0.52, and 0.43 of that without the weights
  of rare classes (loss.balance=0).
Variants: scratch (random weights), smoke (seconds, on `shapes` if no root is
  given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import folder


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '', 'scratch' or 'smoke'."""
  c = folder.make_config('camvid_mnv2')
  run = common.parse_variant(c, variant, run=('', 'scratch', 'smoke'))['run']

  # Data.
  folder.set_camvid_data(c)
  common.set_sizes(c, (256, 256), export=(352, 480))

  if run != 'scratch':
    folder.init_from_imagenet(c)
    common.set_sizes(c, (288, 384), export=(352, 480))
  if run == 'smoke':
    folder.shrink_to_smoke_test(c)
  return common.finalize_config(c)
