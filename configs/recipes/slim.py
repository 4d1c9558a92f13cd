"""The training of TF DeepLab (`research/deeplab` of tensorflow/models).

SGD with momentum 0.9 and a polynomial rate from 0.007, twice that for biases;
weight decay 4e-5, images scaled to -1 .. 1 and resized without a filter, and
crops of 32k + 1, on which strided grids stay aligned.

Two flags of the original are off here as there: `fine_tune_batch_norm=False` is
--config.model.frozen_norms=True, and hard example mining is the loss term
`hardest`. What differs: the original scales images and labels with corner
pixels aligned, here pixel areas keep their borders.
"""

from ml_collections import ConfigDict

from configs import common

# The mobile networks of the model zoo: image pooling and one 1x1 layer in place
# of the pyramid, and no decoder.
MNV2_ENCODER = {'name': 'mobilenet_v2', 'padding': 'same', 'bn_decay': 0.997}
MOBILE_HEAD = {
  'name': 'deeplabv3',
  'rates': (),
  'bn_decay': 0.9997,
  'align_corners': True,
}


def _set_training(c: ConfigDict, *, steps: int) -> None:
  c.data.mean = (127.5, 127.5, 127.5)
  c.data.std = (127.5, 127.5, 127.5)
  c.data.augment.random_scale.step = 0.25
  c.data.augment.shrink = 'bilinear'
  c.batch_size = 16
  c.total_steps = steps
  c.optimizer.name = 'sgd'
  c.optimizer.learning_rate = 0.007
  c.optimizer.weight_decay = 4e-5
  # TF-slim leaves depthwise kernels alone.
  c.optimizer.bias_multiplier = 2.0
  c.optimizer.decay_mask = r'(?!.*/depthwise/).*/kernel$'
  c.schedule.warmup_steps = 0
  c.eval.every_epochs = 5.0
  c.eval.pad_offset = 1
  c.checkpoint.every_steps = 1000


def set_voc_training(c: ConfigDict) -> None:
  """Sets data, training and evaluation of the VOC experiments."""
  c.data.name = 'voc'
  c.data.train_split = 'trainaug'
  _set_training(c, steps=30_000)
  common.set_sizes(c, (513, 513))


def set_cityscapes_training(c: ConfigDict) -> None:
  """Sets data, training and evaluation of the Cityscapes experiments."""
  c.data.name = 'cityscapes'
  _set_training(c, steps=90_000)
  # Exported for whole images of 1024x2048, one row and one column more.
  common.set_sizes(c, (769, 769), export=(1025, 2049))
