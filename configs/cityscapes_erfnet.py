"""ERFNet on Cityscapes.

What: the encoder and decoder of ERFNet, factorised residual layers at output
  stride 8 and a decoder of transposed convolutions, at 512x1024: 150 epochs of
  batches of 6, Adam from 5e-4, weights of ENet's rule. (The original trains the
  encoder by itself first.)
Reference: Romera et al. 2018, "ERFNet: Efficient Residual Factorized ConvNet
  for Real-Time Semantic Segmentation"; a reference row of edgeai-torchvision's
  benchmark.
Data: leftImg8bit and gtFine, official layout. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/cityscapes_erfnet.py
Cost: 27 GMACs an image of 512x1024.
Expected: no number of ours yet, and from random weights unless init_from is
  set; published mIoU 69.7.
Variants: smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '' or 'smoke'."""
  c = common.default_config()
  c.name = 'cityscapes_erfnet'
  run = common.parse_variant(c, variant, run=('', 'smoke'))['run']

  # Data.
  c.data.name = 'cityscapes'
  common.set_sizes(c, (512, 1024))
  c.data.augment.ops = ('stretch', 'random_flip')
  c.data.augment.stretch.size = (512, 1024)
  c.data.augment.shrink = 'bilinear'

  # Model.
  c.model.encoder = ConfigDict({'name': 'erfnet'})
  c.model.head = ConfigDict({'name': 'erfnet'})
  c.model.unbiased_variance = True
  c.model.output_stride = 8

  # Loss, optimizer, schedule and evaluation.
  c.loss.normalizer = 'weight'
  c.loss.balance = 1.0
  c.loss.balance_rule = 'log'
  c.batch_size = 6
  c.epochs = 150.0
  c.optimizer.name = 'adam'
  c.optimizer.learning_rate = 5e-4
  c.optimizer.weight_decay = 1e-4
  c.optimizer.decay_mask = '.*'
  c.schedule.warmup_steps = 0
  c.eval.mode = 'static'
  c.checkpoint.every_steps = 1000

  if run == 'smoke':
    common.shrink_to_smoke_test(c, encoder='erfnet_tiny')
  return common.finalize_config(c)
