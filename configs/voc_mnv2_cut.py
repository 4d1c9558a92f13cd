"""STMicroelectronics' 21-class segmentation for microcontrollers.

What: MobileNetV2 (alpha 0.5, cut at output stride 16) and a pyramid, dense
  (ASPPv1, 2.64 M parameters) or separable (ASPPv2, 0.88 M), at 512x512.
Reference: the STM32 model zoo's DeepLabV3, and arXiv:1706.05587.
Data: COCO 2017 and VOC 2012 with the SBD masks, official layouts, in one
  folder. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/voc_mnv2_cut.py
Cost: 2.8 GMACs an image (v1), 1.0 (v2).
Expected: no number of ours yet, from Keras' ImageNet weights; published mIoU
  73.44 (v1) in float and 67.32 in int8, which the dense pyramid suffers from.
Variants: v1 or v2; smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import stm32


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'voc_mnv2_cut'
  chosen = common.parse_variant(
    c, variant, pyramid=('v1', 'v2'), run=('', 'smoke')
  )

  # Data.
  c.data.name = 'coco_voc21'

  # Model, training and evaluation.
  stm32.set_model(c, 'size512', separable=chosen['pyramid'] == 'v2')
  stm32.set_training(c, 'size512')

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(c, encoder='mobilenet_v2_tiny', channels=16)
  return common.finalize_config(c)
