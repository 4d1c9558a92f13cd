"""The networks and the training of TF DeepLab (tensorflow/models).

Training is SGD with momentum 0.9, a polynomial schedule from 0.007 (biases
learn at twice that rate) and weight decay 4e-5. Images are scaled to [-1, 1]
and resized without an antialiasing filter. Crops have sizes 32k + 1, on which
the grids of strided convolutions stay aligned.

Evaluation pads every image with mean pixels, at the bottom and the right, to a
canvas that holds all of them (`eval_crop_size` of eval.py: 513x513 for VOC,
1025x2049 for Cityscapes), and image pooling averages over the canvas. Views
scale and mirror the canvas: 513 becomes 257, 385, 641, 769 and 897.

Two options of the original are off by default, there as here:
`fine_tune_batch_norm=False` corresponds to --config.model.frozen_norms=True,
and hard example mining to the loss term `hardest`. One difference remains: the
original resizes images and labels with aligned corners, this code with aligned
pixel areas.
"""

from typing import Any
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import common

_HEAD = {'bn_decay': 0.9997, 'align_corners': True}
_MNV2 = {'name': 'mobilenet_v2', 'padding': 'same', 'bn_decay': 0.997}
# The mobile networks of the model zoo have image pooling and one 1x1 layer
# instead of the pyramid, and no decoder.
_MOBILE_HEAD = {'name': 'deeplabv3', 'rates': (), **_HEAD}
_DECODER_HEAD = {'name': 'deeplabv3plus', 'rates': (6, 12, 18), **_HEAD}


class NetworkSpec(NamedTuple):
  """Fields of `config.model`: `encoder`, `head` and `output_stride`."""

  encoder: dict[str, Any]
  head: dict[str, Any]
  output_stride: int = 16


NETWORKS = {
  'mnv2': NetworkSpec(_MNV2, _MOBILE_HEAD),
  # Half as wide, with channel counts that are not rounded to multiples of 8.
  'dm05': NetworkSpec(
    {**_MNV2, 'alpha': 0.5, 'rounding': 'slim'}, _MOBILE_HEAD
  ),
  'mnv2_decoder': NetworkSpec(
    {'name': 'mobilenet_v2', 'alpha': 1.0, 'bn_decay': 0.997}, _DECODER_HEAD
  ),
  'mnv3': NetworkSpec(
    {'name': 'mobilenet_v3_large_seg', 'padding': 'same'},
    {
      'name': 'lraspp',
      'gate': 'hard_sigmoid_tf',
      'gate_bias': True,
      # Pooling windows cover a training crop; a whole image has several.
      'pool_window': (25, 25),
      'pool_stride': (4, 5),
      **_HEAD,
    },
    32,
  ),
  'xception65': NetworkSpec(
    {'name': 'xception_65', 'bn_decay': 0.9997}, _DECODER_HEAD
  ),
}


def set_model(c: ConfigDict, network: str, *, output_stride: int = 0) -> None:
  """Sets the encoder, the head and the output stride.

  Args:
    c: the config.
    network: a key of `NETWORKS`.
    output_stride: 0 for that of the network; at 8 instead of 16 the rates of
      the pyramid are doubled (arXiv:1706.05587, section 4).
  """
  chosen = NETWORKS[network]
  c.model.encoder = ConfigDict(chosen.encoder)
  c.model.head = ConfigDict(chosen.head)
  c.model.unbiased_variance = True
  c.model.classifier_stddev = 0.01
  c.model.output_stride = output_stride or chosen.output_stride
  if 'rates' in chosen.head:
    factor = chosen.output_stride // c.model.output_stride
    c.model.head.rates = tuple(factor * rate for rate in chosen.head['rates'])


def set_training(
  c: ConfigDict,
  *,
  steps: int,
  crop: tuple[int, int],
  canvas: tuple[int, int],
  export: tuple[int, int] | None = None,
) -> None:
  """Sets normalization, augmentation, optimizer, schedule and evaluation.

  Args:
    c: the config.
    steps: length of the run.
    crop: (H, W) of crops, of the form 32k + 1.
    canvas: (H, W) that images are padded to in evaluation, of that form too.
    export: (H, W) of the exported file; None for that of the crop.
  """
  c.data.mean = (127.5, 127.5, 127.5)
  c.data.std = (127.5, 127.5, 127.5)
  c.data.augment.random_scale.step = 0.25
  c.data.augment.shrink = 'bilinear'
  c.batch_size = 16
  c.total_steps = steps
  c.optimizer.name = 'sgd'
  c.optimizer.learning_rate = 0.007
  c.optimizer.weight_decay = 4e-5
  c.optimizer.bias_multiplier = 2.0
  # TF-slim does not decay depthwise kernels.
  c.optimizer.decay_mask = r'(?!.*/depthwise/).*/kernel$'
  c.schedule.warmup_steps = 0
  c.eval.every_epochs = 5.0
  c.eval.pad_offset = 1
  c.eval.pad_size = canvas
  c.checkpoint.every_steps = 1000
  common.set_sizes(c, crop, export)
