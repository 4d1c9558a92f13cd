"""DeepLabV3+ on drawn shapes: the three-minute experiment.

What: a small MobileNetV2 DeepLabV3+ learns to segment textured, overlapping
  shapes that are drawn on first use. No network, no download.
Reference: none; the encoder and head are those of the papers
  (arXiv:1801.04381, arXiv:1802.02611), smaller.
Command: python -m deeplab.main --config=configs/shapes_mnv2.py
Cost: about three minutes on two CPU cores.
Expected: mIoU above 0.85, and int8 within one point of float.
Variants: smoke (a few steps, for tests).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '' or 'smoke'."""
  c = common.default_config()
  c.name = 'shapes_mnv2'
  run = common.parse_variant(c, variant, run=('', 'smoke'))['run']

  # Data: drawn at 128x128, at any place, angle and size.
  c.data.augment.ops = ('random_flip',)

  # Model.
  c.model.encoder = ConfigDict(
    {
      'name': 'mobilenet_v2',
      'alpha': 0.5,
      # One block per stage: from random weights, depth is slow to train.
      'repeats': (1, 1, 1, 1, 1, 1, 1),
      'padding': 'same',
      'bn_decay': 0.9,
    }
  )
  c.model.head = ConfigDict(
    {
      'name': 'deeplabv3plus',
      'channels': 64,
      'decoder_channels': 64,
      'aspp_dropout': 0.0,
      'bn_decay': 0.9,
    }
  )

  # Optimizer and schedule.
  c.epochs = 20.0
  c.optimizer.learning_rate = 1e-2

  # Evaluation.
  c.eval.every_epochs = 10.0
  c.eval.batch_size = 16
  c.eval.static_size = (128, 128)

  if run == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='mobilenet_v2_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
