"""DeepLabV3+ Xception-65 on PASCAL VOC 2012 (trainaug).

What: DeepLabV3+ with the modified aligned Xception-65, output stride 16,
  crops of 513 = 32k + 1: 30k steps of 16 images, SGD with momentum 0.9 and a
  polynomial rate, weight decay 4e-5.
Reference: arXiv:1802.02611, sections 3.2 and 4.2; 82.20 mIoU at eval output
  stride 16 after ImageNet pre-training (trainaug, single scale).
Data: VOC 2012 and the SBD masks, official layout; the error says where to put
  them. --config.data.root=VOCdevkit/VOC2012
Command: python -m deeplab.main --config=configs/voc_xception.py
Cost: a day on one accelerator; not for a CPU.
Expected: no number of ours yet.
Variants: smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '' or 'smoke'."""
  common.check_variant(variant, ('smoke',))
  c = common.base()
  c.name = 'voc_xception'
  common.voc(c)

  # Model.
  c.model.encoder = ConfigDict({'name': 'xception_65', 'bn_decay': 0.9997})
  c.model.head = ConfigDict(
    {
      'name': 'deeplabv3plus',
      'rates': (6, 12, 18),
      'bn_decay': 0.9997,
      'align_corners': True,
    }
  )

  if variant == 'smoke':
    common.smoke(c, encoder='xception_tiny')
  return common.finish(c)
