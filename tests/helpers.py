"""A tiny network with all that a training step handles, and its batches."""

import contextlib
import resource
import signal
import types

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab import networks
from deeplab.data import image_format
from deeplab.models import layers
from deeplab.models import resizing
from deeplab.models import segmenter


@contextlib.contextmanager
def full_disk(limit):
  """Makes writes fail part-way: no file may exceed `limit` bytes."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def network(config, num_classes):
  """Returns the network of a config; its data need not exist."""
  info = types.SimpleNamespace(num_classes=num_classes)
  spec = image_format.image_spec(config.data)
  return networks.Network(config, types.SimpleNamespace(info=info, spec=spec))


class TinyNet(nn.Module):
  """Convolution, cross-device BatchNorm, dropout, logits at image size."""

  num_classes: int = 3
  axis_name: str | None = None
  dropout: float = 0.5

  @nn.compact
  def __call__(self, images, train=False, dropout_keys=None):
    options = layers.Options(axis_name=self.axis_name)
    x = layers.ConvBN(
      8,
      layers.BatchNormConfig(0.9, 1e-3),
      kernel=3,
      stride=2,
      options=options,
      name='encoder',
    )(images, train)
    if train:
      x = layers.dropout(x, self.dropout, dropout_keys)
    x = layers.Conv(
      self.num_classes, use_bias=True, options=options, name='head'
    )(x)
    return segmenter.SegmenterOutput(resizing.resize(x, images.shape[1:3]))


def batch(size=8, height=9, width=9, classes=3, seed=0):
  """Returns a training batch with a different share of void in each image."""
  keys = jax.random.split(jax.random.key(seed), 3)
  labels = jax.random.randint(keys[1], (size, height, width), 0, classes)
  rows = jnp.arange(height)[None, :, None] < jnp.arange(size)[:, None, None]
  return {
    'image': jax.random.normal(keys[0], (size, height, width, 3)),
    'label': jnp.where(rows, 255, labels).astype(jnp.uint8),
    'index': jnp.arange(100, 100 + size, dtype=jnp.uint32),
  }
