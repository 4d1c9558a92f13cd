"""A segmentation network: encoder, head, resize to the input's size."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers

Array = jax.Array


class SegmenterOutput(NamedTuple):
  """What a Segmenter returns, all float32 and of one size.

  Attributes:
    logits: [B, H, W, K].
    auxiliary: logits [B, H, W, K] of further outputs, in training only: those
      that the head has besides the prediction, then those of the auxiliary
      head.
  """

  logits: Array
  auxiliary: tuple[Array, ...] = ()


class Segmenter(nn.Module):
  """Maps normalised images to per-class logits, at any input size.

  Variables are {'params', 'batch_stats'}, float32, with the top-level names
  'encoder', 'head' and 'auxiliary'. Only the batch axis may be sharded.

  Attributes:
    encoder: see `encoders/contract.py`.
    head: see `heads/base.py`; its `resize` is the last one too.
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
    """Returns the logits of a batch.

    Args:
      images: [B, H, W, C] float32, normalised.
      train: BatchNorm uses and updates batch statistics, dropout drops, and
        the auxiliary head runs.
      dropout_keys: typed PRNG keys [B], one an example; None: no dropout.
      full_resolution: resizes logits to [H, W]; False leaves each head's size.

    Raises:
      ValueError: for images of another rank, and what encoder and heads raise.
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
    # Parameters of the auxiliary head are made whatever the mode.
    if self.auxiliary is not None and (train or self.is_initializing()):
      auxiliary += self._apply_head(
        self.auxiliary, features, train, dropout_keys, 1, size
      )
    return SegmenterOutput(logits, tuple(auxiliary))

  def _apply_head(self, head, features, train, dropout_keys, site, size):
    """Returns one head's outputs, float32, of `size` unless that is None."""
    keys = layers.fold_keys(dropout_keys if train else None, site)
    outputs = (x.astype(jnp.float32) for x in head(features, train, keys))
    if size is None:
      return list(outputs)
    return [head.resize(logits, size) for logits in outputs]
