"""STMicroelectronics' DeepLabV3 for microcontrollers, and its training.

The encoder is MobileNetV2 with alpha 0.5, cut at output stride 16 and without
atrous layers. The rates of the pyramid are 1, 2 and 3 times a fifth of the rows
of its input map; they are fixed for each size here, because rates that followed
the height would give another network on a whole image. Training is Adam from
1e-3 with batches of 32 for at most 400 epochs: the learning rate is halved when
the validation loss has not fallen for 20 epochs, and the run ends when it has
not fallen for 80. Metrics are computed at the size of the network; `image_iou`
is the original's "average IoU".
"""

from ml_collections import ConfigDict

from configs import common

# Height and width in pixels, and the rates of the pyramid.
SIZES = {
  'size256': (256, (3, 6, 9)),
  'size320': (320, (4, 8, 12)),
  'size416': (416, (5, 10, 15)),
  'size512': (512, (6, 12, 18)),
}


def set_model(c: ConfigDict, size: str, *, separable: bool) -> None:
  """Sets the model, its initial weights and the normalization of its input.

  Args:
    c: the config.
    size: a key of `SIZES`.
    separable: True for ASPPv2, whose atrous branches are depthwise separable;
      False for ASPPv1.
  """
  _, rates = SIZES[size]
  c.data.mean = (127.5, 127.5, 127.5)
  c.data.std = (127.5, 127.5, 127.5)
  c.model.encoder = ConfigDict(
    {
      'name': 'mobilenet_v2',
      'alpha': 0.5,
      'cut': 'block_13_expand',
      'padding': 'keras',
      'bn_decay': 0.999,
      'bn_epsilon': 1e-3,
    }
  )
  c.model.unbiased_variance = True
  c.model.head = ConfigDict(
    {
      'name': 'st_aspp',
      'rates': rates,
      'separable': separable,
      'dropout': 0.4,
      'bn_decay': 0.99,
      'bn_epsilon': 1e-3,
    }
  )
  c.init_from = 'keras:mobilenet_v2_0.5'
  # Layers after the cut.
  c.init_skip = r'block_13_(depthwise|project).*|block_1[456]_.*|Conv_1.*'


def set_training(c: ConfigDict, size: str) -> None:
  """Sets augmentation, optimizer, schedule and evaluation.

  Args:
    c: the config.
    size: a key of `SIZES`.
  """
  pixels, _ = SIZES[size]
  window = ('random_window',) if pixels <= 320 else ()
  c.data.augment.ops = (
    *('stretch', *window, 'brightness_contrast'),
    *('random_flip', 'random_flip_vertical'),
  )
  c.data.augment.stretch.size = (pixels, pixels)
  c.data.augment.shrink = 'bilinear'
  c.batch_size = 32
  c.epochs = 400.0
  c.optimizer.name = 'adam'
  c.optimizer.learning_rate = 1e-3
  c.optimizer.weight_decay = 0.0
  c.optimizer.adam.epsilon = 1e-7  # Keras'
  c.schedule.name = 'plateau'
  c.schedule.warmup_steps = 0
  c.schedule.plateau.update({'metric': 'loss', 'patience': 20})
  c.early_stopping.update({'metric': 'loss', 'patience': 80})
  common.set_sizes(c, (pixels, pixels))
  c.eval.every_epochs = 1.0
  c.eval.mode = 'static'
  c.eval.resize_labels = True
  c.eval.loss = True
