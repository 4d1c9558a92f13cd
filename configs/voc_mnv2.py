"""DeepLabV3+ MobileNetV2 on PASCAL VOC 2012 (trainaug).

What: DeepLabV3+ with MobileNetV2 (alpha 1.0), output stride 16, crops of
  513 = 32k + 1, so that strided grids stay aligned: 30k steps of 16 images,
  SGD with momentum 0.9 and a polynomial rate, weight decay 4e-5. Variant mobile
  is the network of TF DeepLab's model zoo instead, with image pooling alone.
Reference: arXiv:1802.02611, sections 4 and 4.1; the schedule of
  tensorflow/models research/deeplab for VOC. That started from COCO weights
  (75.32 mIoU after COCO pre-training); from scratch expect far less. Variant
  qat is its stage in simulated int8 (quantize.md there), 3000 steps that go on
  from a run of the same network: --config.init_from=RUN.
Data: VOC 2012 and the SBD masks, official layout; the error says where to put
  them. --config.data.root=VOCdevkit/VOC2012
Command: python -m deeplab.main --config=configs/voc_mnv2.py
Cost: hours on one accelerator; not for a CPU.
Expected: no number of ours yet; Texas Instruments publishes 72.66 mIoU for
  mobile,os8 and 66.94 for dm05,os8, after COCO pre-training; TF DeepLab 74.26
  for mobile,qat and 69.65 for dm05,qat (75.32 and 70.19 in float).
Variants: mobile or dm05 (mobile of alpha 0.5, its channels not rounded to
  eights); os8 (output stride 8, exported at 512x512); qat; flip or ms (views of
  evaluation); smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import slim


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'voc_mnv2'
  chosen = common.parse_variant(
    c,
    variant,
    network=('', 'mobile', 'dm05'),
    output_stride=('', 'os8'),
    stage=('', 'qat'),
    views=common.TTA_VARIANTS,
    run=('', 'smoke'),
  )

  os8 = chosen['output_stride'] == 'os8'

  # Data.
  c.data.name = 'voc'
  c.data.train_split = 'trainaug'

  # Model.
  network = {'': 'mnv2_decoder', 'mobile': 'mnv2', 'dm05': 'dm05'}
  slim.set_model(c, network[chosen['network']], output_stride=8 if os8 else 16)

  # Training and evaluation.
  slim.set_training(
    c,
    steps=30_000,
    crop=(513, 513),
    canvas=(513, 513),
    export=(512, 512) if os8 else None,
  )
  if chosen['stage'] == 'qat':
    c.optimizer.learning_rate = 3e-5
    c.total_steps = 3000
    c.quantization.name = 'int8'
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(c, encoder='mobilenet_v2_tiny', channels=16)
  return common.finalize_config(c)
