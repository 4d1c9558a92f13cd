"""DeepLabV3+ MobileNetV2 on PASCAL VOC 2012 (trainaug).

What: DeepLabV3+ with MobileNetV2 (alpha 1.0), output stride 16, crops of
  513 = 32k + 1, so that strided grids stay aligned: 30k steps of 16 images,
  SGD with momentum 0.9 and a polynomial rate, weight decay 4e-5.
Reference: arXiv:1802.02611, sections 4 and 4.1; the schedule of
  tensorflow/models research/deeplab for VOC. That started from COCO weights
  (75.32 mIoU after COCO pre-training); from scratch expect far less.
Data: VOC 2012 and the SBD masks, official layout; the error says where to put
  them. --config.data.root=VOCdevkit/VOC2012
Command: python -m deeplab.main --config=configs/voc_mnv2.py
Cost: hours on one accelerator; not for a CPU.
Expected: no number of ours yet.
Variants: smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '' or 'smoke'."""
  common.check_variant(variant, ('smoke',))
  c = common.base()
  c.name = 'voc_mnv2'
  common.voc(c)

  # Model.
  c.model.encoder = ConfigDict(
    {
      'name': 'mobilenet_v2',
      'alpha': 1.0,
      'bn_decay': 0.997,
    }
  )
  c.model.head = ConfigDict(
    {
      'name': 'deeplabv3plus',
      'rates': (6, 12, 18),
      'bn_decay': 0.9997,
      'align_corners': True,
    }
  )

  if variant == 'smoke':
    common.smoke(c, encoder='mobilenet_v2_tiny')
  return common.finish(c)
