"""DeepLabV3+ MobileNetV2 for a folder of images, and for int8 export.

Padding is SAME (as Keras pads even sizes) and every size a multiple of 32, so
that the exported graph has no PAD operators and integer resize ratios. The loss
weights rare classes, and evaluation uses an exponential moving average of the
weights, because a few hundred images give few training steps.
"""

from ml_collections import ConfigDict

from configs import common


def set_data(c: ConfigDict) -> None:
  """Sets the defaults of a folder of images (`builders/folder.py`)."""
  c.data.name = 'folder'
  c.data.num_classes = 2
  c.data.ignore_label = 255  # -1: no pixel is ignored
  # Class of each value in masks, such as '0:0,255:1' (deeplab/data/id_maps.py);
  # '': values are class ids, or classes.txt says.
  c.data.id_map = ''
  c.data.class_names = ()
  c.data.color_map = ()
  # Folders of the images and of their masks below `root`, of any name; ''.
  c.data.images = c.data.labels = ''
  # Folder that holds all examples, to be split here; '': one folder per split.
  c.data.pool = ''
  c.data.pool_share = 0.2  # share of the pool that becomes `eval_split`
  c.data.pool_seed = 0
  c.data.depth = 8  # bits per channel, 8 or 16; the unit of `mean` and `std`
  c.data.augment.random_crop.max_class_share = 0.75


def set_camvid_data(c: ConfigDict) -> None:
  """Sets the classes of CamVid in the split of SegNet (arXiv:1511.00561)."""
  c.data.cache = True  # 190 MiB
  c.data.num_classes = 11
  c.data.ignore_label = 11
  c.data.class_names = (
    *('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign'),
    *('fence', 'car', 'pedestrian', 'bicyclist'),
  )


def make_config(name: str) -> ConfigDict:
  """Returns a config with this recipe's data, model and training."""
  c = common.default_config()
  c.name = name
  set_data(c)
  set_model(c)
  set_training(c)
  return c


def set_model(c: ConfigDict) -> None:
  """Sets the encoder and the head."""
  c.model.encoder = ConfigDict(
    {
      'name': 'mobilenet_v2',
      'top_conv': True,
      'padding': 'same',
      'bn_decay': 0.9,
      'bn_epsilon': 1e-5,
    }
  )
  c.model.head = ConfigDict(
    {
      'name': 'deeplabv3plus',
      # Rates fit the 16x16 map of a 256 px crop. Kernel taps beyond the map
      # would read only padding, stay untrained, and then act on whole images.
      'rates': (3, 6, 9),
      'refine': 'separable',
      'depthwise_norm': False,
      'decoder_convs': 1,
      'bn_decay': 0.9,
    }
  )


def set_training(c: ConfigDict) -> None:
  """Sets the crop size, the loss and the average of the weights."""
  common.set_sizes(c, (256, 256))
  # mIoU averages over classes, and some classes have few pixels.
  c.loss.balance = 0.5
  # Averages over about 100 steps; BatchNorm (decay 0.9) over about 10.
  c.ema_decay = 0.99


def init_from_imagenet(c: ConfigDict) -> None:
  """Starts the encoder from Keras' ImageNet weights, at a lower learning rate.

  Weights that come from a converted .tflite file need padding='same' instead
  of 'keras'; the two differ on odd sizes only.
  """
  c.init_from = 'keras:mobilenet_v2_1.0'
  c.data.mean = (127.5, 127.5, 127.5)
  c.data.std = (127.5, 127.5, 127.5)
  c.model.encoder.update({'padding': 'keras', 'bn_epsilon': 1e-3})
  c.optimizer.encoder_multiplier = 0.3


def shrink_to_smoke_test(c: ConfigDict) -> None:
  """Shrinks the config to a run of a few seconds from random weights."""
  common.shrink_to_smoke_test(
    c, encoder='mobilenet_v2_tiny', channels=16, decoder_channels=16
  )
