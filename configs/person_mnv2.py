"""STMicroelectronics' person segmentation for microcontrollers.

What: MobileNetV2 (alpha 0.5, cut at output stride 16) and the separable pyramid
  ASPPv2: 0.88 M parameters, two classes, background and person, at 256, 320 or
  416 pixels.
Reference: the STM32 model zoo's DeepLabV3, and arXiv:1706.05587.
Data: COCO 2017 and VOC 2012 with every class but the person as background.
  --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/person_mnv2.py
Cost: 0.25 (256), 0.40 (320) and 0.67 (416) GMACs an image.
Expected: no number of ours yet, from Keras' ImageNet weights; published IoU,
  averaged over images, 76.58 (size256), 77.87 (size320) and 79.9 (size416) in
  float, 76.25, 77.45 and 79.18 in int8.
Variants: size256, size320 or size416; smoke (seconds, on `shapes` if no root is
  given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import stm32


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'person_mnv2'
  chosen = common.parse_variant(
    c,
    variant,
    size=('size256', 'size320', 'size416'),
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'coco_voc_person'

  # Model, optimizer, schedule and evaluation.
  stm32.set_model(c, chosen['size'], separable=True)
  stm32.set_training(c, chosen['size'])
  c.loss.terms = ('sigmoid_cross_entropy',)

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(c, encoder='mobilenet_v2_tiny', channels=16)
  return common.finalize_config(c)
