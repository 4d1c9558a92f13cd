"""Texas Instruments' lite networks on Cityscapes.

What: MobileNetV2 or RegNetX with DeepLabV3Lite, UNetLite or FPNLite, trained at
  384x768 and larger sizes, 250 epochs of batches of 12. Variant qat is the
  published stage in simulated int8, with scales that are powers of two; it goes
  on from a run of the same network: --config.init_from=RUN.
Reference: edgeai-torchvision's segmentation benchmark.
Data: leftImg8bit and gtFine, official layout. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/cityscapes_lite.py:fpn
Cost: 2.2 (unet) to 111 GMACs (rx3200,size768) an image; not for a CPU.
Expected: no number of ours yet, and from random weights unless init_from is
  set; published mIoU 69.13 (deeplab), 68.94 (unet), 70.39 (fpn), 74.61
  (fpn,size768) to 78.90 (rx3200,size768), and 69.88 (fpn,qat) in 8 bits
  (experiments/zoo.csv has them all).
Variants: deeplab, unet or fpn (MobileNetV2), rx400, rx800, rx1600 or rx3200
  (RegNetX and FPNLite); size384, size512 or size768, the height, half the
  width; qat; smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import lite

SIZES = {'size384': (384, 768), 'size512': (512, 1024), 'size768': (768, 1536)}


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'cityscapes_lite'
  chosen = common.parse_variant(
    c,
    variant,
    network=('deeplab', 'unet', 'fpn', 'rx400', 'rx800', 'rx1600', 'rx3200'),
    size=SIZES,
    stage=('', 'qat'),
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'cityscapes'

  # Model, optimizer, schedule and evaluation.
  size = SIZES[chosen['size']]
  lite.set_model(c, chosen['network'])
  lite.set_training(c, chosen['network'], size=size, batch_size=12)
  c.epochs = 250.0
  if chosen['stage'] == 'qat':
    c.optimizer.learning_rate = 1e-5
    c.schedule.warmup_epochs = 0.0
    c.epochs = 10.0
    c.quantization.name = 'int8'
    c.quantization.power_of_two = True

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='mobilenet_v2_tiny', channels=16, group_size=1
    )
  return common.finalize_config(c)
