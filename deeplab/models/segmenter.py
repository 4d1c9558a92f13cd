"""A segmentation network: encoder, head, resize to the input's size.

The last resize takes `resize_steps` steps. With half-pixel centres several
steps are another function than one, so training and evaluation take the steps
that a device with a limit on the ratio takes (Ethos-U refuses x16 at once).
Sizes between are a geometric progression, rounded: x16 is four steps of 2 with
`resize_steps=4` and two of 4 with 2; x4 is two of 2. With aligned corners it is
size - 1 that progresses (17, 33, 65, 129, 257), so that every coarse pixel
centre is a centre of each finer map, and the steps equal one resize wherever
the ratio of a step is whole.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models import resizing

Array = jax.Array


class Output(NamedTuple):
  """What a Segmenter returns, all float32 and of one size.

  Attributes:
    logits: [B, H, W, K].
    auxiliary: logits [B, H, W, K] of further outputs, in training only: those
      that the head has besides the prediction, then those of the auxiliary
      head.
  """

  logits: Array
  auxiliary: tuple[Array, ...] = ()


def _progression(start: int, end: int, steps: int, offset: int) -> list[int]:
  """Returns `steps` sizes from after `start` to `end`, by equal ratios."""
  offset = offset if min(start, end) > 1 else 0
  ratio = (end - offset) / (start - offset)
  return [
    round((start - offset) * ratio ** (i / steps)) + offset
    for i in range(1, steps + 1)
  ]


def resize_sizes(
  start: tuple[int, int], end: tuple[int, int], steps: int, align_corners: bool
) -> list[tuple[int, int]]:
  """Returns the (H, W) after each step of a resize in several steps.

  Args:
    start: (h, w) of the map.
    end: (H, W), the last entry of the result.
    steps: number of steps, 1 or more.
    align_corners: keeps whole ratios of size - 1 instead of size.
  """
  offset = int(align_corners)
  heights = _progression(start[0], end[0], steps, offset)
  widths = _progression(start[1], end[1], steps, offset)
  return list(zip(heights, widths, strict=True))


class Segmenter(nn.Module):
  """Maps normalised images to per-class logits, at any input size.

  Variables are {'params', 'batch_stats'}, float32, with the top-level names
  'encoder', 'head' and 'auxiliary'. Only the batch axis may be sharded.

  Attributes:
    encoder: see `encoders/contract.py`.
    head: see `heads/base.py`; its field `align_corners` holds for the last
      resize too.
    auxiliary: another head, for further losses in training; or None.
    num_classes: number of classes K.
    resize_steps: steps of the last resize, see above.
  """

  encoder: nn.Module
  head: nn.Module
  auxiliary: nn.Module | None
  num_classes: int
  resize_steps: int = 1

  def __call__(
    self,
    images: Array,
    train: bool = False,
    dropout_keys: Array | None = None,
    full_resolution: bool = True,
  ) -> Output:
    """Returns the logits of a batch.

    Args:
      images: [B, H, W, C] float32, normalised.
      train: BatchNorm uses and updates batch statistics, dropout drops, and
        the auxiliary head runs.
      dropout_keys: typed PRNG keys [B], one an example; None: no dropout.
      full_resolution: resizes logits to [H, W]; False leaves each head's size.

    Raises:
      ValueError: for fewer than 1 resize steps or images of another rank, and
        what encoder and heads raise.
    """
    if self.resize_steps < 1:
      raise ValueError(
        f'resize_steps={self.resize_steps} must be 1 (one resize) or more'
      )
    if images.ndim != 4:
      raise ValueError(
        f'images have shape {images.shape}; expected [B, H, W, C]'
      )
    features = self.encoder(images, train)
    size = images.shape[1:3] if full_resolution else None
    logits, *auxiliary = self._run(
      self.head, features, train, dropout_keys, 0, size
    )
    # Parameters of the auxiliary head are made whatever the mode.
    if self.auxiliary is not None and (train or self.is_initializing()):
      auxiliary += self._run(
        self.auxiliary, features, train, dropout_keys, 1, size
      )
    return Output(logits, tuple(auxiliary))

  def _run(self, head, features, train, dropout_keys, site, size):
    """Returns one head's outputs, float32, of `size` unless that is None."""
    keys = layers.fold_keys(dropout_keys if train else None, site)
    aligned = head.align_corners
    outputs = []
    for logits in head(features, train, keys):
      logits = logits.astype(jnp.float32)
      if size is not None:
        start = logits.shape[1:3]
        for step in resize_sizes(start, size, self.resize_steps, aligned):
          logits = resizing.resize(logits, step, aligned)
      outputs.append(logits)
    return outputs
