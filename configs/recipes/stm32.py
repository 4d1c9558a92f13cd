"""STMicroelectronics' DeepLabV3 for microcontrollers, and its training.

MobileNetV2 of alpha 0.5, cut at output stride 16 and without atrous layers,
and a pyramid whose rates are 1, 2 and 3 times a fifth of the map's rows; they
are written down for each size, because a network that follows the height is
another one on a whole image. Adam from 1e-3, batches of 32, at most 400 epochs:
the rate is halved where the validation loss has not fallen for 20 epochs, and
the run ends after 80. Scores are taken at the network's size; `image_iou` is
the original's "average IoU".
"""

from ml_collections import ConfigDict

from configs import common

# Height and width, and the rates of the pyramid there.
SIZES = {
  'size256': (256, (3, 6, 9)),
  'size320': (320, (4, 8, 12)),
  'size416': (416, (5, 10, 15)),
  'size512': (512, (6, 12, 18)),
}


def set_model(c: ConfigDict, size: str, *, separable: bool) -> None:
  """Sets model, first weights and their normalisation.

  Args:
    c: the config.
    size: one of `SIZES`.
    separable: ASPPv2, whose atrous branches are depthwise-separable, instead of
      ASPPv1.
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
  # What comes after the cut.
  c.init_skip = r'block_13_(depthwise|project).*|block_1[456]_.*|Conv_1.*'


def set_model_and_training(
  c: ConfigDict, size: str, *, separable: bool
) -> None:
  """Sets model, normalisation, augmentation, optimiser and schedule.

  Args:
    c: the config.
    size: as of `set_model`.
    separable: as of `set_model`.
  """
  set_model(c, size, separable=separable)
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
