"""DeepLabV3+ MobileNetV2 on a folder of your own images and masks.

What: DeepLabV3+ with MobileNetV2 (alpha 1.0), output stride 16, trained from
  scratch at 256x256 crops. Padding is SAME and every size a multiple of 32, so
  that the exported graph has no PAD and whole resize ratios: crops and export
  size must both be even, or both of the form 32k + 1.
Reference: arXiv:1802.02611 and arXiv:1801.04381.
Data: ROOT/{train,val}/{images,labels}/STEM.*, or ROOT/{train,val}.txt with
  `image label` lines.
Command: python -m deeplab.main --config=configs/folder_mnv2.py
  --config.data.root=ROOT --config.data.num_classes=11
  --config.data.ignore_label=11
Cost: 367 images of 480x360, 30 epochs: under an hour on two CPU cores.
Expected: what configs/camvid_mnv2.py:scratch, this recipe on CamVid, has: val
  mIoU 0.52.
Variants: smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '' or 'smoke'."""
  c = common.base()
  c.name = 'folder_mnv2'
  run = common.choose(c, variant, run=('', 'smoke'))['run']

  # Data.
  c.data.name = 'folder'
  c.data.num_classes = 2
  c.data.ignore_label = 255  # -1: no pixel is ignored
  c.data.class_names = ()
  c.data.color_map = ()
  c.data.augment.ops = ('random_scale', 'random_crop', 'random_flip')
  c.data.augment.random_crop.size = (256, 256)
  c.data.augment.random_crop.max_class_share = 0.75

  # Model.
  c.model.encoder = ConfigDict(
    {
      'name': 'mobilenet_v2',
      'alpha': 1.0,
      'top_conv': True,
      'padding': 'same',
      'bn_decay': 0.9,
      'bn_epsilon': 1e-5,
    }
  )
  c.model.head = ConfigDict(
    {
      'name': 'deeplabv3plus',
      # As wide as a map of 16x16 pixels, which a crop leaves: taps beyond it
      # read padding alone, stay untrained, and meet whole images later.
      'rates': (3, 6, 9),
      'refine': 'separable',
      'depthwise_norm': False,
      'decoder_convs': 1,
      'aspp_dropout': 0.1,
      'bn_decay': 0.9,
    }
  )

  # Loss: mIoU counts classes, and some have few pixels.
  c.loss.balance = 0.5

  # Optimiser and schedule.
  c.batch_size = 8
  c.epochs = 30.0
  # BatchNorm's statistics are those of ten batches; this is of a hundred.
  c.ema_decay = 0.99

  # Evaluation: whole images, padded to multiples of 32.
  c.eval.every_epochs = 10.0
  c.eval.window = (256, 256)
  c.eval.static_size = (256, 256)

  if run == 'smoke':
    common.smoke(
      c, encoder='mobilenet_v2_tiny', channels=16, decoder_channels=16
    )
  return common.finish(c)
