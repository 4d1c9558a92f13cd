"""TF DeepLab's Cityscapes networks: MobileNetV2, MobileNetV3 and Xception-65.

What: MobileNetV2 with image pooling alone, MobileNetV3-Large with LR-ASPP at
  output stride 32, or DeepLabV3+ Xception-65; trained on crops of 769x769 and
  meant for whole images of 1025x2049.
Reference: arXiv:1802.02611, arXiv:1801.04381, arXiv:1905.02244; the model zoo
  of tensorflow/models research/deeplab.
Data: leftImg8bit and gtFine, official layout. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/cityscapes_slim.py:mnv2
Cost: 21 (mnv2), 7.6 (mnv3) and 418 (xception65) GMACs an image of 1025x2049.
Expected: no number of ours yet, and from random weights unless init_from is
  set; published mIoU 70.71 (mnv2), 72.41 (mnv3) and 78.79 (xception65), the
  last two after ImageNet.
Variants: mnv2, mnv3 or xception65; flip or ms (views of evaluation); smoke
  (seconds, on `shapes` if no root is given).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from configs.recipes import slim

_HEAD = {'bn_decay': 0.9997, 'align_corners': True}
# `encoder`, `head` and `output_stride` of `config.model`.
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
  'mnv2': (slim.MNV2_ENCODER, slim.MOBILE_HEAD, 16),
  'mnv3': (
    {'name': 'mobilenet_v3_large_seg', 'padding': 'same'},
    {
      'name': 'lraspp',
      'gate': 'hard_sigmoid_tf',
      'gate_bias': True,
      # Windows of the training crop's size: a whole image has several.
      'pool_window': (25, 25),
      'pool_stride': (4, 5),
      **_HEAD,
    },
    32,
  ),
  'xception65': (
    {'name': 'xception_65', 'bn_decay': 0.9997},
    {'name': 'deeplabv3plus', 'rates': (6, 12, 18), **_HEAD},
    16,
  ),
}


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is of the tokens above."""
  c = common.default_config()
  c.name = 'cityscapes_slim'
  chosen = common.parse_variant(
    c, variant, network=NETWORKS, views=common.TTA_VARIANTS, run=('', 'smoke')
  )

  # Data, optimiser, schedule and evaluation.
  slim.set_cityscapes_training(c)

  # Model.
  encoder, head, c.model.output_stride = NETWORKS[chosen['network']]
  c.model.encoder = ConfigDict(encoder)
  c.model.head = ConfigDict(head)
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(c, encoder='mobilenet_v2_tiny', channels=16)
  return common.finalize_config(c)
