"""A network of few layers that holds every operator of the model family."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np

from deeplab.models import layers
from deeplab.models import segmenter
from deeplab.models.heads import deeplabv3plus
from deeplab.quantization.ptq import calibration
from export import source as source_lib

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
CLASSES = 3


class Encoder(nn.Module):
  """Stem, one residual block with a depthwise convolution, one more stage."""

  output_stride: int = 8
  multi_grid: tuple[int, ...] = (1, 1, 1)
  options: layers.Options = layers.Options()

  @nn.compact
  def __call__(self, images, train):
    shared = {
      'norm': layers.BatchNormConfig(0.5, 1e-3),
      'options': self.options,
    }
    stem = layers.ConvBN(
      8, kernel=3, stride=2, activation='relu6', **shared, name='stem'
    )(images, train)
    x = layers.SeparableConvBN(
      8,
      stride=2,
      depthwise_activation='relu6',
      activation='none',
      **shared,
      name='down',
    )(stem, train)
    y = layers.SeparableConvBN(8, activation='none', **shared, name='block')(
      x, train
    )
    x = x + y
    last = layers.ConvBN(12, stride=2, **shared, name='last')(x, train)
    return stem, x, last


def build(options=None, **head):
  """Returns a `Segmenter`; `head` replaces fields of DeepLabV3+."""
  options = options or layers.Options()
  fields = {
    'channels': 6,
    'rates': (2,),
    'low_level_channels': 4,
    'decoder_channels': 8,
    'decoder_convs': 1,
    **head,
  }
  return segmenter.Segmenter(
    encoder=Encoder(options=options),
    head=deeplabv3plus.DeepLabV3Plus(CLASSES, options=options, **fields),
    auxiliary=None,
    num_classes=CLASSES,
  )


def variables(model, images, seed=0):
  """Returns weights under which no layer is dead or saturated.

  Scales of BatchNorm have both signs; its statistics are those of the images.
  """
  drawn = jax.jit(model.init)(jax.random.key(seed), images)
  rng = np.random.default_rng(seed)

  def value(path, x):
    if path[-1].key == 'scale':
      signs = rng.choice((-1, 1, 1, 1), x.shape)
      return (signs * rng.uniform(0.5, 1.5, x.shape)).astype(np.float32)
    if path[-1].key == 'bias':
      return rng.normal(0, 0.5, x.shape).astype(np.float32)
    return x

  drawn = jax.tree_util.tree_map_with_path(value, drawn)
  train = jax.jit(
    lambda v: {
      **v,
      **model.apply(v, images, train=True, mutable=['batch_stats'])[1],
    }
  )
  for _ in range(12):
    drawn = train(drawn)
  return jax.tree.map(np.asarray, drawn)


@dataclasses.dataclass(frozen=True)
class Small:
  """A network, its weights, and synthetic images."""

  model: segmenter.Segmenter
  variables: dict
  calibration: list
  images: list


def small(size=(33, 40), **head):
  """Returns a `Small` for images of a size."""

  drawn = source_lib.draw_synthetic_images(16, size, 3)
  normal = (np.stack(drawn).astype(np.float32) - np.float32(MEAN)) / STD
  model = build(**head)
  return Small(
    model,
    variables(model, normal.astype(np.float32)),
    drawn[:8],
    drawn[8:],
  )


def calibrated(model, rules, variables, images, mean=MEAN, std=STD):
  """Returns `variables` with the ranges that `images` give."""
  ranges = calibration.calibrate_ranges(
    model,
    rules,
    variables,
    images,
    mean=mean,
    std=std,
    method='minmax',
    percentile=99.9,
  )
  return {**variables, 'quant_stats': ranges}
