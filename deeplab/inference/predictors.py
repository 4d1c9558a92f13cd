"""Predictors: one way to ask any model, whatever it runs on.

A predictor is called with images `[B, H, W, C]`, integers or float32, that are
not normalised (RGB in 0..255, or other channels and 0..65535, as the model was
trained), and returns what its `output` says:

    'logits'   float32 [B, H, W, K]
    'softmax'  float32 [B, H, W, K], probabilities
    'argmax'   uint8 [B, H, W], the class of the highest logit

`evaluate` and `predict` know nothing else about a model, so a checkpoint and
an exported file are scored by the same code.
"""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import copy
import dataclasses
from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from deeplab import parallel
from deeplab.data import resize
from deeplab.data.augmentation import compose

OUTPUTS = ('logits', 'softmax', 'argmax')


class Predictor(Protocol):
  """What evaluation and prediction ask of a model."""

  @property
  def input_size(self) -> tuple[int, int] | None:
    """The only (H, W) the model computes at, or None for any."""

  @property
  def output(self) -> str:
    """'logits', 'softmax' or 'argmax'."""

  @property
  def batch_size(self) -> int | None:
    """The only batch the model computes, or None for any.

    Any number of images may be passed all the same.
    """

  @property
  def mean(self) -> tuple[float, ...]:
    """A value a channel, what to fill up an image with."""

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to `output`."""

  def with_output(self, output: str) -> 'Predictor':
    """Returns the same model with another output; ValueError if it cannot."""


def softmax(logits: np.ndarray) -> np.ndarray:
  """Returns float32 probabilities over the last axis."""
  powers = logits - logits.max(axis=-1, keepdims=True)
  np.exp(powers, out=powers)
  powers /= powers.sum(axis=-1, keepdims=True)
  return powers


def argmax(scores: np.ndarray) -> np.ndarray:
  """Returns uint8 [..., H, W] of logits or probabilities [..., H, W, K]."""
  ids = np.empty(scores.shape[:-1], np.uint8)
  # Row by row: whole, an aerial image's would be eight bytes a pixel first.
  for place, row in zip(ids, scores, strict=True):
    place[...] = row.argmax(axis=-1)
  return ids


def check_output(output: str) -> str:
  """Returns what it is given; ValueError if that is no output."""
  if output not in OUTPUTS:
    raise ValueError(f'output={output!r} is not one of {OUTPUTS}')
  return output


@dataclasses.dataclass(frozen=True)
class WithNormalization:
  """A model behind the normalization of its images, for `Int8Predictor`.

  Attributes:
    model: of normalized images.
    mean: one value for each channel.
    std: one value for each channel.
  """

  model: Any
  mean: Sequence[float]
  std: Sequence[float]

  def apply(self, variables: Any, images: jax.Array, **kwargs: Any) -> Any:
    """Returns what the model returns for images [B, H, W, C]."""
    images = compose.normalize_image(images, self.mean, self.std)
    return self.model.apply(variables, images, **kwargs)


class FlaxPredictor:
  """A Flax model and its variables.

  Normalization, model and softmax or argmax are one compiled function; the
  batch is spread over the local devices. A batch smaller than one already seen
  at its size is filled up to it, so that the last batch of a data set is not
  compiled again.
  """

  input_size = None
  batch_size = None

  def __init__(
    self,
    model: Any,
    variables: Any,
    mean: Sequence[float],
    std: Sequence[float],
    output: str = 'logits',
  ):
    """Wraps a model of normalized images.

    Args:
      model: `model.apply(variables, images)` returns an object whose `logits`
        are float32 [B, H, W, K].
      variables: {'params', 'batch_stats'}.
      mean: one value for each channel that the images are normalized with.
      std: one value for each channel that the images are normalized with.
      output: 'logits', 'softmax' or 'argmax'.
    """
    self.model = model
    self.variables = jax.device_put(variables)  # once, not with every batch
    self.mean = tuple(float(x) for x in mean)
    self.std = tuple(float(x) for x in std)
    self.output = check_output(output)
    self._compiled: dict[str, Any] = {}
    self._batches: dict[tuple, int] = {}

  def _make_forward(self) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the function (variables, images [B, H, W, C]) -> output."""
    model, output, to_input = self.model, self.output, self._to_model_input

    def compute(variables, images):
      logits = model.apply(variables, to_input(images)).logits
      logits = logits.astype(jnp.float32)
      if output == 'argmax':
        return jnp.argmax(logits, axis=-1).astype(jnp.uint8)
      if output == 'softmax':
        return jax.nn.softmax(logits, axis=-1)
      return logits

    return compute

  def _to_model_input(self, images: jax.Array) -> jax.Array:
    return compose.normalize_image(images, self.mean, self.std)

  def _precision(self) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()

  def _copy_with(self, variables: Any, output: str) -> 'FlaxPredictor':
    other = copy.copy(self)
    other.variables = jax.device_put(variables)
    other.output = check_output(output)
    return other

  def with_output(self, output: str) -> 'FlaxPredictor':
    """Returns this predictor with another output."""
    if output == self.output:
      return self
    return self._copy_with(self.variables, output)

  def with_variables(self, variables: Any) -> 'FlaxPredictor':
    """Returns this predictor with other weights; nothing is recompiled."""
    return self._copy_with(variables, self.output)

  def with_model(self, model: Any) -> 'FlaxPredictor':
    """Returns another model with the same weights."""
    other = self._copy_with(self.variables, self.output)
    other.model, other._compiled = model, {}
    return other

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C], integers or float32, to `output`."""
    if self.output not in self._compiled:
      self._compiled[self.output] = parallel.map_predict(self._make_forward())
    count = len(images)
    key = (self.output, images.dtype, images.shape[1:])
    full = max(count, self._batches.get(key, 0))
    self._batches[key] = full
    if count < full:
      rest = np.broadcast_to(images[-1:], (full - count, *images.shape[1:]))
      images = np.concatenate([images, rest])
    with self._precision():
      outputs = self._compiled[self.output](self.variables, images)
    return np.asarray(outputs)[:count]


class Int8Predictor(FlaxPredictor):
  """A model in simulated int8, which normalizes images in its first layer.

  It runs with float64 enabled: integers of up to 32 bits and their products
  with scales are then exact, as on the device. In float32 about one value in
  1e5 is off by one LSB, and a deep network spreads the error.
  """

  def __init__(
    self,
    model: Any,
    variables: Any,
    mean: Sequence[float],
    output: str = 'logits',
  ):
    """Wraps a model of images that are not normalized.

    Args:
      model: as `networks.Network.simulate_int8` returns it.
      variables: {'params', 'batch_stats', 'quant_stats'}.
      mean: one value for each channel, to pad images with.
      output: 'logits', 'softmax' or 'argmax'.
    """
    super().__init__(model, variables, mean, (1.0,) * len(mean), output)

  def _to_model_input(self, images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32)

  def _precision(self) -> contextlib.AbstractContextManager:
    return jax.enable_x64(True)


class ResizedPredictor:
  """A predictor at one size, asked about images of any size.

  Images are resized to the model's size, bilinearly with half-pixel centres;
  logits and probabilities are resized back bilinearly, ids by the nearest
  pixel. Aspect ratio is not kept: that is what a model in a fixed-size graph
  is given on a device.

  Attributes:
    predictor: what computes.
    input_size: (H, W) it computes at.
  """

  def __init__(self, predictor: Predictor, size: Sequence[int]):
    if predictor.input_size not in (None, tuple(size)):
      raise ValueError(
        f'the model computes at {predictor.input_size}, not at {tuple(size)}'
      )
    self.predictor = predictor
    self.input_size = (int(size[0]), int(size[1]))
    self.output = predictor.output
    self.batch_size = predictor.batch_size
    self.mean = predictor.mean

  def with_output(self, output: str) -> 'ResizedPredictor':
    """Returns this predictor with another output before resizing back."""
    return ResizedPredictor(self.predictor.with_output(output), self.input_size)

  def resize_input(self, image: np.ndarray) -> np.ndarray:
    """Returns an image [H, W, C] as float32 at the model's size."""
    return resize.resize_bilinear(image, self.input_size)

  def resize_output(
    self, output: np.ndarray, size: Sequence[int]
  ) -> np.ndarray:
    """Returns one output, [h, w, K] or [h, w], at `size` (H, W)."""
    if self.output == 'argmax':
      return resize.resize_nearest(output, size)
    return resize.resize_bilinear(output, size)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to `output` at H x W."""
    outputs = self.predictor(np.stack([self.resize_input(x) for x in images]))
    return np.stack([self.resize_output(x, images.shape[1:3]) for x in outputs])


def fixed_size_predictor(
  predictor: Predictor, size: Sequence[int], output: str | None = None
) -> ResizedPredictor:
  """Returns a predictor as a fixed-size file would compute it.

  A float model and the files made of it are compared only when both are asked
  through this function, with one size and one output.

  Args:
    predictor: any predictor.
    size: (H, W) of the file.
    output: what the file returns ('logits', 'softmax' or 'argmax'), before the
      resize back; None keeps the predictor's.
  """
  if output is not None:
    predictor = predictor.with_output(output)
  return ResizedPredictor(predictor, size)
