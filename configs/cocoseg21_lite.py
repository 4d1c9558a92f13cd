"""Texas Instruments' lite networks on COCO with VOC's 21 classes.

What: MobileNetV2 or RegNetX with DeepLabV3Lite, UNetLite or FPNLite, trained at
  512x512 on the images and classes that torchvision chose from COCO 2017, and
  evaluated on the images that the same rule leaves of `val`.
Reference: edgeai-torchvision's segmentation benchmark.
Data: COCO 2017 images and instances. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/cocoseg21_lite.py:fpn
Cost: 2.0 to 7.9 GMACs an image; not for a CPU.
Expected: no number of ours yet, and from random weights unless init_from is
  set; published mIoU 57.77 (deeplab), 57.01 (unet) and 61.15 (rx800); none for
  fpn.
Variants: deeplab, unet or fpn (MobileNetV2), rx800 (RegNetX and FPNLite); smoke
  (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import lite


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'cocoseg21_lite'
  chosen = common.parse_variant(
    c,
    variant,
    network=('deeplab', 'unet', 'fpn', 'rx800'),
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'cocoseg21_ti'

  # Model, optimizer, schedule and evaluation.
  network = chosen['network']
  lite.set_model(c, network)
  lite.set_training(c, network, size=(512, 512), batch_size=32)
  c.epochs = 60.0
  if network != 'rx800':
    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate = 0.05
    c.schedule.name = 'cosine'

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='mobilenet_v2_tiny', channels=16, group_size=1
    )
  return common.finalize_config(c)
