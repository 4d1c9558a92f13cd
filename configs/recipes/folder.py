"""DeepLabV3+ MobileNetV2 for a user's own images and for int8 files.

Padding is SAME (Keras' is, on even sizes) and every size a multiple of 32, so
that an exported graph has no PAD and whole resize ratios. Rare classes are
weighted, and the weights averaged: a few hundred images make few steps.
"""

from ml_collections import ConfigDict

from configs import common


def set_folder_data(c: ConfigDict) -> None:
  """Says what can be said of a folder; builders/folder.py says more."""
  c.data.name = 'folder'
  c.data.num_classes = 2
  c.data.ignore_label = 255  # -1: no pixel is ignored
  c.data.class_names = ()
  c.data.color_map = ()
  # What holds all examples; '': the splits are there apart.
  c.data.pool = ''
  c.data.pool_share = 0.2  # of the pool goes to `eval_split`
  c.data.pool_seed = 0
  c.data.depth = 8  # bits a channel of the images, 8 or 16, as of `mean`, `std`
  c.data.augment.random_crop.max_class_share = 0.75


def set_camvid_data(c: ConfigDict) -> None:
  """Says what CamVid's folder holds, in SegNet's split."""
  c.data.cache = True  # 190 MiB
  c.data.num_classes = 11
  c.data.ignore_label = 11
  c.data.class_names = (
    *('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign'),
    *('fence', 'car', 'pedestrian', 'bicyclist'),
  )


def make_config(name: str) -> ConfigDict:
  """Returns a config that has the recipe, from random weights."""
  c = common.default_config()
  c.name = name
  set_folder_data(c)
  set_model(c)
  return c


def set_model(c: ConfigDict) -> None:
  """Sets the sizes, the model and the loss."""
  common.set_sizes(c, (256, 256))

  # Model.
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
      # As wide as the map that a crop leaves: taps beyond it read padding
      # alone, stay untrained, and meet whole images later.
      'rates': (3, 6, 9),
      'refine': 'separable',
      'depthwise_norm': False,
      'decoder_convs': 1,
      'bn_decay': 0.9,
    }
  )

  # Loss: mIoU counts classes, and some have few pixels.
  c.loss.balance = 0.5

  # BatchNorm's statistics are those of ten batches; this is of a hundred.
  c.ema_decay = 0.99


def init_from_imagenet(c: ConfigDict) -> None:
  """Starts the encoder from Keras' weights, and lets it learn more slowly.

  Google's converted files (.tflite) need padding='same' in place of 'keras',
  which is another function on odd sizes alone.
  """
  c.init_from = 'keras:mobilenet_v2_1.0'
  c.data.mean = (127.5, 127.5, 127.5)
  c.data.std = (127.5, 127.5, 127.5)
  c.model.encoder.update({'padding': 'keras', 'bn_epsilon': 1e-3})
  c.optimizer.encoder_multiplier = 0.3


def shrink_to_smoke_test(c: ConfigDict) -> None:
  """Shrinks the config to a run of seconds, from random weights."""
  common.shrink_to_smoke_test(
    c, encoder='mobilenet_v2_tiny', channels=16, decoder_channels=16
  )
