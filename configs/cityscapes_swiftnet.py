"""SwiftNet with MobileNetV2 on Cityscapes.

What: MobileNetV2, a pyramid of pooled cells and a decoder of additions, on
  whole images: crops of 768x768, and 1024x2048 where it is used; 250 epochs of
  batches of 12, Adam from 4e-4 by a cosine.
Reference: arXiv:1903.08469; a reference row of edgeai-torchvision's benchmark.
Data: leftImg8bit and gtFine, official layout. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/cityscapes_swiftnet.py
Cost: 38 GMACs an image of 1024x2048; published are 41.
Expected: no number of ours yet, and from random weights unless init_from is
  set; published mIoU 75.3.
Variants: smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '' or 'smoke'."""
  c = common.default_config()
  c.name = 'cityscapes_swiftnet'
  run = common.parse_variant(c, variant, run=('', 'smoke'))['run']

  # Data.
  c.data.name = 'cityscapes'
  common.set_sizes(c, (768, 768), export=(1024, 2048))

  # Model.
  c.model.encoder = ConfigDict(
    {'name': 'mobilenet_v2', 'bn_decay': 0.9, 'bn_epsilon': 1e-5}
  )
  c.model.head = ConfigDict({'name': 'swiftnet'})
  c.model.unbiased_variance = True
  c.model.output_stride = 32

  # Optimizer and schedule: trained weights learn at a quarter of the rate.
  c.batch_size = 12
  c.epochs = 250.0
  c.optimizer.name = 'adam'
  c.optimizer.learning_rate = 4e-4
  c.optimizer.weight_decay = 1e-4
  c.optimizer.decay_mask = '.*'
  c.optimizer.encoder_multiplier = 0.25
  c.schedule.name = 'cosine'
  c.schedule.warmup_steps = 0
  c.schedule.cosine.end = 1e-6
  c.checkpoint.every_steps = 1000

  if run == 'smoke':
    common.shrink_to_smoke_test(c, encoder='mobilenet_v2_tiny', channels=16)
  return common.finalize_config(c)
