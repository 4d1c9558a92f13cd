"""DeepLabV3+ MobileNetV2 on CamVid's 11 classes, from ImageNet weights.

What: DeepLabV3+ with MobileNetV2 (alpha 1.0), output stride 16: 30 epochs of
  crops of 288x384 (256x256 from scratch), AdamW, rare classes weighted, an
  average of the weights. The encoder learns at a third of the head's rate.
Reference: arXiv:1802.02611 and arXiv:1801.04381; CamVid in SegNet's split,
  arXiv:1511.00561.
Data: ROOT/{train,val}/{images,labels}/STEM.*: 367 and 101 images of 480x360,
  ids 0 to 10, 11 ignored.
Command: python -m deeplab.main --config=configs/camvid_mnv2.py
  --config.data.root=ROOT
Cost: an hour on two CPU cores (half of that from scratch).
Expected: val mIoU 0.65; from scratch 0.52, and 0.43 of that without the weights
  of rare classes (loss.balance=0).
Variants: scratch (random weights), smoke (seconds, on `shapes` if no root is
  given).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '', 'scratch' or 'smoke'."""
  c = common.base()
  c.name = 'camvid_mnv2'
  run = common.choose(c, variant, run=('', 'scratch', 'smoke'))['run']

  # Data.
  c.data.name = 'folder'
  c.data.cache = True  # 190 MiB
  c.data.num_classes = 11
  c.data.ignore_label = 11
  c.data.class_names = (
    *('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign'),
    *('fence', 'car', 'pedestrian', 'bicyclist'),
  )
  c.data.color_map = ()
  c.data.mean = c.data.std = (127.5, 127.5, 127.5)
  c.data.augment.random_crop.max_class_share = 0.75
  common.sizes(c, (288, 384), export=(352, 480))

  # Model. Keras' weights; Google's .tflite ones need padding='same', the same
  # on even sizes.
  c.init_from = 'keras:mobilenet_v2_1.0'
  c.model.encoder = ConfigDict(
    {
      'name': 'mobilenet_v2',
      'top_conv': True,
      'padding': 'keras',
      'bn_decay': 0.9,
    }
  )
  c.model.head = ConfigDict(
    {
      'name': 'deeplabv3plus',
      # As wide as the map of a crop: taps beyond it read padding alone.
      'rates': (3, 6, 9),
      'refine': 'separable',
      'depthwise_norm': False,
      'decoder_convs': 1,
      'bn_decay': 0.9,
    }
  )

  # Loss: mIoU counts classes, and some have few pixels.
  c.loss.balance = 0.5

  # Optimiser, schedule and evaluation.
  c.optimizer.encoder_multiplier = 0.3
  c.ema_decay = 0.99

  if run == 'scratch':
    common.sizes(c, (256, 256), export=(352, 480))
    c.data.mean = (123.675, 116.28, 103.53)
    c.data.std = (58.395, 57.12, 57.375)
    c.init_from = ''
    c.model.encoder.update({'padding': 'same', 'bn_epsilon': 1e-5})
    c.optimizer.encoder_multiplier = 1.0
  if run == 'smoke':
    common.smoke(c, encoder='mobilenet_v2_tiny')
    c.init_from = ''
  return common.finish(c)
