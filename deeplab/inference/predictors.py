"""Predictors: one interface for models in JAX and exported files.

A predictor maps images [B, H, W, C], integers or float32, to its `output`:

    'logits'   float32 [B, H, W, K]
    'softmax'  float32 [B, H, W, K], probabilities
    'argmax'   uint8 [B, H, W], the class of the highest logit

Images are not normalized: RGB in 0..255, or the channels and the range, up to
0..65535, that the model was trained on. `evaluate` and `predict` use nothing
else of a model, so a checkpoint and an exported file are scored by the same
code.
"""

from collections.abc import Callable
from collections.abc import Sequence
from concurrent import futures
import contextlib
import copy
import dataclasses
import threading
from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from deeplab import parallel
from deeplab.data import image_format
from deeplab.data import resize

# In this order: each can be computed from those before it.
OUTPUTS = ('logits', 'softmax', 'argmax')


class Predictor(Protocol):
  """Interface of a model for evaluation and prediction.

  Several threads may call one predictor at the same time; each gets the outputs
  of its own images. The predictors of this package compute one batch at a time.
  """

  @property
  def input_size(self) -> tuple[int, int] | None:
    """(H, W) of a model of a fixed size; None if it computes at any size."""

  @property
  def output(self) -> str:
    """Kind of output: 'logits', 'softmax' or 'argmax'."""

  @property
  def batch_size(self) -> int | None:
    """Batch size of a model that has a fixed one; None for any.

    Any number of images may be passed; the predictor forms the batches.
    """

  @property
  def mean(self) -> tuple[float, ...]:
    """One value per channel, to pad images with."""

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to [B, H, W, K] or [B, H, W], as `output` says."""

  def with_output(self, output: str) -> 'Predictor':
    """Returns the same model with another output.

    Raises:
      ValueError: the output is unknown, or cannot be computed from the model's.
    """


def softmax(logits: np.ndarray) -> np.ndarray:
  """Computes probabilities, float32 [..., K], from logits [..., K]."""
  exponentials = logits - logits.max(axis=-1, keepdims=True)
  np.exp(exponentials, out=exponentials)
  exponentials /= exponentials.sum(axis=-1, keepdims=True)
  return exponentials


def argmax(scores: np.ndarray) -> np.ndarray:
  """Computes class ids, uint8 [..., H, W], from scores [..., H, W, K].

  It works on one item of the first axis at a time: NumPy's argmax of a whole
  aerial image would be int64 first, eight bytes per pixel.
  """
  ids = np.empty(scores.shape[:-1], np.uint8)
  for ids_row, scores_row in zip(ids, scores, strict=True):
    ids_row[...] = scores_row.argmax(axis=-1)
  return ids


def check_output(output: str) -> str:
  """Returns the kind of output unchanged; ValueError if it is unknown."""
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
    """Applies the model to images [B, H, W, C] that are not normalized."""
    images = image_format.normalize_image(images, self.mean, self.std)
    return self.model.apply(variables, images, **kwargs)


class FlaxPredictor:
  """A Flax model and its variables, for normalized images.

  Normalization, model, and softmax or argmax are one compiled function; the
  batch is spread over the local devices. A batch that is smaller than an
  earlier one of the same image size is filled up to that, so that the last
  batch of a data set needs no compilation of its own.

  Several threads may call one predictor: one batch is computed at a time. It
  takes all cores or devices already, memory is that of one batch, and a size is
  compiled once and not in each of the threads that meet it.
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
    self._compiled: dict[str, parallel.MappedPredict] = {}
    # Largest batch so far by (output, dtype, image shape).
    self._largest_batches: dict[tuple, int] = {}
    # Shapes that a thread compiles, by (output, dtype, batch shape).
    self._ahead: dict[tuple, futures.Future] = {}
    self._lock = threading.Lock()  # of this predictor and its copies

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
    """Converts images [B, H, W, C] to the input of the model."""
    return image_format.normalize_image(images, self.mean, self.std)

  def _precision(self) -> contextlib.AbstractContextManager:
    """Returns the context that the model runs in."""
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
    """Returns this predictor with other weights, without compilation."""
    return self._copy_with(variables, self.output)

  def with_model(self, model: Any) -> 'FlaxPredictor':
    """Returns this predictor with another model and the same weights."""
    other = self._copy_with(self.variables, self.output)
    other.model, other._compiled, other._ahead = model, {}, {}
    return other

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to [B, H, W, K] or [B, H, W], as `output` says."""
    with self._lock:
      return self._compute_batch(images)

  def _compute_batch(self, images: np.ndarray) -> np.ndarray:
    """Computes [B, H, W, C] in one thread at a time."""
    count = len(images)
    key = (self.output, images.dtype, images.shape[1:])
    full = max(count, self._largest_batches.get(key, 0))
    self._largest_batches[key] = full
    if count < full:
      padding = np.broadcast_to(images[-1:], (full - count, *images.shape[1:]))
      images = np.concatenate([images, padding])
    ahead = self._ahead.pop((self.output, images.dtype, images.shape), None)
    if ahead is not None and not ahead.cancel():
      # Its error, if any, is raised again below.
      futures.wait([ahead])
    with self._precision():
      outputs = self._forward()(self.variables, images)
    return np.asarray(outputs)[:count]

  def _forward(self) -> parallel.MappedPredict:
    """Returns the mapped function of this output, which is made once."""
    if self.output not in self._compiled:
      self._compiled[self.output] = parallel.MappedPredict(self._make_forward())
    return self._compiled[self.output]

  def compile_ahead(
    self,
    batches: Sequence[tuple[tuple[int, ...], Any]],
    executor: futures.Executor,
  ) -> None:
    """Compiles for images to come, while this thread computes others.

    Args:
      batches: shape [B, H, W, C] and dtype of each batch, in the order of their
        first use.
      executor: runs the compilation; if it ends early, what is left is compiled
        when it is needed.
    """
    with self._lock:
      forward = self._forward()

    def compile_batch(shape: tuple[int, ...], dtype: Any) -> None:
      with self._precision():
        forward.lower(self.variables, shape, dtype).compile()

    for shape, dtype in batches:
      self._ahead[self.output, np.dtype(dtype), shape] = executor.submit(
        compile_batch, shape, dtype
      )


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
  """A predictor that computes at one size, for images of any size.

  Images are resized to this size bilinearly, with half-pixel centers. Logits
  and probabilities are resized back bilinearly, class ids to the nearest pixel.
  The aspect ratio is not kept, because a device that runs a fixed-size graph
  does not keep it either. It may be called from as many threads as the
  predictor that it wraps.

  Attributes:
    predictor: computes at `input_size`.
    input_size: (H, W).
    output: 'logits', 'softmax' or 'argmax'.
    batch_size: that of `predictor`.
    mean: one value per channel, to pad images with.
  """

  def __init__(self, predictor: Predictor, size: Sequence[int]):
    """Wraps a predictor.

    Args:
      predictor: computes at any size, or at `size` only.
      size: (H, W) to compute at.

    Raises:
      ValueError: the predictor computes at another size only.
    """
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
    """Returns this predictor with another output, which is resized back."""
    return ResizedPredictor(self.predictor.with_output(output), self.input_size)

  def resize_input(self, image: np.ndarray) -> np.ndarray:
    """Resizes an image [H, W, C] to `input_size`, as float32."""
    return resize.resize_bilinear(image, self.input_size)

  def resize_output(
    self, output: np.ndarray, size: Sequence[int]
  ) -> np.ndarray:
    """Resizes one output, [h, w, K] or [h, w], to `size` (H, W)."""
    if self.output == 'argmax':
      return resize.resize_nearest(output, size)
    return resize.resize_bilinear(output, size)

  def segment(self, image: np.ndarray) -> np.ndarray:
    """Maps an image [H, W, C] to class ids, uint8 [H, W].

    They are the argmax of the output, whose scores a large image need not hold.
    """
    output = self.predictor(self.resize_input(image)[None])[0]
    if self.output == 'argmax':
      return self.resize_output(output, image.shape[:2])
    return resize.argmax_of_resized(output, image.shape[:2])

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to [B, H, W, K] or [B, H, W], as `output` says."""
    outputs = self.predictor(np.stack([self.resize_input(x) for x in images]))
    return np.stack([self.resize_output(x, images.shape[1:3]) for x in outputs])


def fixed_size_predictor(
  predictor: Predictor, size: Sequence[int], output: str | None = None
) -> ResizedPredictor:
  """Makes a predictor compute as an exported file of a fixed size does.

  A float model and its exported files are comparable only if this function
  wraps both, with the same size and output.

  Args:
    predictor: any predictor.
    size: (H, W) of the file.
    output: kind of output of the file, which is resized back; None keeps that
      of the predictor.
  """
  if output is not None:
    predictor = predictor.with_output(output)
  return ResizedPredictor(predictor, size)
