"""Texas Instruments' lite networks on ADE20K-32.

What: MobileNetV2 or RegNetX with DeepLabV3Lite, UNetLite or FPNLite, trained on
  32 classes: the 31 most frequent of ADE20K, and class 0 for all others, which
  is trained and scored like any other.
Reference: edgeai-torchvision's segmentation benchmark.
Data: ADEChallengeData2016, official layout. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/ade20k32_lite.py:fpn
Cost: 2.3 to 7.9 GMACs an image; not for a CPU.
Expected: no number of ours yet, and from random weights unless init_from is
  set; published mIoU 51.01 (deeplab), 49.95 (unet), 50.72 (fpn), 52.93 (wide),
  51.03 (rx400,size384) and 53.29 (rx800).
Variants: deeplab, unet or fpn (MobileNetV2), wide (MobileNetV2 of alpha 1.4 and
  FPNLite), rx400 or rx800 (RegNetX and FPNLite); size512 or size384; smoke
  (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import lite

SIZES = {'size512': (512, 512), 'size384': (384, 384)}
# Epochs of MobileNetV2 and of RegNetX.
EPOCHS, EPOCHS_REGNET = 120.0, 60.0


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'ade20k32_lite'
  chosen = common.parse_variant(
    c,
    variant,
    network=('deeplab', 'unet', 'fpn', 'wide', 'rx400', 'rx800'),
    size=SIZES,
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'ade20k32_other'

  # Model, optimizer, schedule and evaluation.
  network = chosen['network']
  size = SIZES[chosen['size']]
  lite.set_model(c, network)
  lite.set_training(c, network, size=size, batch_size=16)
  c.epochs = EPOCHS_REGNET if network.startswith('rx') else EPOCHS

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='mobilenet_v2_tiny', channels=16, group_size=1
    )
  return common.finalize_config(c)
