"""The segmentation network: encoder, head, and a resize to the input's size."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers

Array = jax.Array


class SegmenterOutput(NamedTuple):
  """The logits of a Segmenter, all float32 and of one size.

  Attributes:
    logits: the prediction, [B, H, W, K].
    auxiliary: further logits [B, H, W, K], in training only: the head's own
      auxiliary outputs, then those of the auxiliary head.
  """

  logits: Array
  auxiliary: tuple[Array, ...] = ()


class Segmenter(nn.Module):
  """Maps normalized images to per-class logits, at any input size.

  Variables are {'params', 'batch_stats'}, float32, with the top-level names
  'encoder', 'head' and 'auxiliary'. Only the batch axis may be sharded.

  Attributes:
    encoder: an encoder with the interface of `encoders/contract.py`.
    head: a head with the interface of `heads/base.py`; its `resize` also
      enlarges the logits to the image's size.
    auxiliary: another head, for further losses in training; or None.
    num_classes: number of classes K.
  """

  encoder: nn.Module
  head: nn.Module
  auxiliary: nn.Module | None
  num_classes: int

  def __call__(
    self,
    images: Array,
    train: bool = False,
    dropout_keys: Array | None = None,
    full_resolution: bool = True,
  ) -> SegmenterOutput:
    """Computes the logits of a batch.

    Args:
      images: [B, H, W, C] float32, normalized.
      train: BatchNorm uses batch statistics and updates the running ones,
        dropout drops, and the auxiliary head runs.
      dropout_keys: typed PRNG keys [B], one per example; None: no dropout.
      full_resolution: resizes logits to [H, W]; False keeps the head's size.

    Raises:
      ValueError: the images have another rank, or the fields or the image size
        do not fit the encoder or the head.
    """
    if images.ndim != 4:
      raise ValueError(
        f'images have shape {images.shape}; expected [B, H, W, C]'
      )
    features = self.encoder(images, train)
    size = images.shape[1:3] if full_resolution else None
    logits, *auxiliary = self._apply_head(
      self.head, features, train, dropout_keys, 0, size
    )
    # Parameters of the auxiliary head are initialized in either mode.
    if self.auxiliary is not None and (train or self.is_initializing()):
      auxiliary += self._apply_head(
        self.auxiliary, features, train, dropout_keys, 1, size
      )
    return SegmenterOutput(logits, tuple(auxiliary))

  def _apply_head(self, head, features, train, dropout_keys, site, size):
    """Returns one head's outputs in float32, resized unless `size` is None."""
    keys = layers.fold_keys(dropout_keys if train else None, site)
    outputs = (x.astype(jnp.float32) for x in head(features, train, keys))
    if size is None:
      return list(outputs)
    return [head.resize(logits, size) for logits in outputs]


def find_first_conv(model: Segmenter, channels: int) -> str:
  """Returns the module path of the convolution that reads the image.

  It is the first that the encoder calls, whatever its name: in most encoders
  'encoder/stem/conv'. Its kernel alone depends on the order and number of image
  channels. Only shapes are computed.

  Args:
    model: the network.
    channels: number of image channels.

  Raises:
    ValueError: the encoder has no `layers.Conv`.
  """
  paths: list[str] = []

  def record(call, args, kwargs, context):
    conv = context.module
    if context.method_name == '__call__' and isinstance(conv, layers.Conv):
      paths.append('/'.join(('encoder', *conv.path)))
    return call(*args, **kwargs)

  image = jax.ShapeDtypeStruct((1, 65, 65, channels), jnp.float32)
  with nn.intercept_methods(record):
    jax.eval_shape(
      lambda key, x: model.encoder.init(key, x, False), jax.random.key(0), image
    )
  if not paths:
    raise ValueError(
      f'the encoder {type(model.encoder).__name__} has no layers.Conv to read '
      'the image: build its first layer with layers.Conv or layers.ConvBN'
    )
  return paths[0]
