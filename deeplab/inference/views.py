"""Inference on images of any size: whole, resized or by sliding windows.

Three protocols (`config.eval.mode`) bring an image to sizes that a model
computes at, and its outputs back to the size of the image:

    'whole'   `whole_inference`: the image is padded to a multiple of the
              network's stride, and the padding is cut off again
    'static'  `resized_inference`: the image is resized to one fixed size, and
              the output is resized back, as with an exported file
    'slide'   `sliding_window_inference`: outputs of overlapping windows, of
              the sizes that whole images are padded to, are averaged

The first and the third can be repeated for several scales and for the mirror
image (`tta_inference`, test-time augmentation). With every protocol an image
gets one map of its own size.

Why sizes are padded: a convolution of stride 2 samples other pixels of an odd
size than of an even one, five times in a row. Logits of a network that was
trained on multiples of 32 are therefore shifted by several pixels on an image
of 97, and those of one trained on 32k + 1 on an image of 96. `pad_multiple` and
`pad_offset` say which sizes the network knows. Images and views are padded to
the next of them, and windows grow to it, with pixels of the image while there
are any: mean pixels inside an image would do harm of their own.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
from typing import Any
from typing import NamedTuple

from ml_collections import ConfigDict
import numpy as np

from deeplab.data import image_format
from deeplab.data import resize
from deeplab.data.augmentation import sizes
from deeplab.inference import canvases as canvases_lib
from deeplab.inference import predictors

MODES = ('whole', 'slide', 'static')


def segment_images(
  predictor: predictors.Predictor,
  images: Sequence[np.ndarray],
  protocol: Any,
  canvases: Sequence[canvases_lib.Size] = (),
) -> list[np.ndarray]:
  """Predicts the class of each pixel.

  For one view of whole images the predictor computes the argmax itself if it
  can, on the device. Several views (scales, mirror images) are resized to the
  size of the image bilinearly, as logits if the predictor has them, and
  averaged as probabilities, as mmsegmentation and TF DeepLab do. Sliding
  windows are averaged before that, in the predictor's own output.

  Args:
    predictor: any predictor. One of a fixed size, such as an exported file, is
      given images resized to that size.
    images: uint8 or uint16 [H, W, C] each, of any sizes.
    protocol: `config.eval`.
    canvases: as `plan_canvases` returns them; () for exact sizes.

  Returns:
    uint8 [H, W], class ids, for each image.

  Raises:
    ValueError: the protocol is invalid, or the predictor cannot follow it.
  """
  outputs, kind = _predict(predictor, images, protocol, True, canvases)
  return (
    outputs if kind == 'argmax' else [predictors.argmax(x) for x in outputs]
  )


def segment_large_image(
  predictor: predictors.Predictor,
  image: np.ndarray,
  protocol: Any,
  max_pixels: int,
) -> np.ndarray:
  """Predicts the class of each pixel of an image within bounded memory.

  One view is computed, whatever `eval.scales` and `eval.flip` say; in sliding
  windows, `eval.window`, if it has more than `max_pixels`. Scores are kept for
  the rows of one window, or at the size that `eval.fit` gives.

  Args:
    predictor: any predictor.
    image: uint8 or uint16 [H, W, C].
    protocol: `config.eval`.
    max_pixels: pixels that the network may compute in one pass.

  Returns:
    uint8 [H, W], class ids.

  Raises:
    ValueError: the protocol is invalid, or the predictor cannot follow it.
  """
  predictor = apply_mode(predictor, protocol)
  if isinstance(predictor, predictors.ResizedPredictor):
    check_eval_config(predictor, protocol)
    return predictor.segment(image)
  view = image
  if protocol.fit:
    view = resize.resize_bilinear(
      image, view_size(image.shape, protocol.fit, 1.0)
    )
  one_view = ConfigDict(protocol)
  with one_view.unlocked():
    one_view.update({'scales': (1.0,), 'flip': False, 'fit': ()})
    if view.shape[0] * view.shape[1] > max_pixels:
      one_view.mode = 'slide'
  if view.shape == image.shape:
    return segment_images(predictor, [view], one_view)[0]
  (scores,), _ = _predict(predictor, [view], one_view, allow_argmax=False)
  return resize.argmax_of_resized(scores, image.shape[:2])


def predict_probabilities(
  predictor: predictors.Predictor,
  images: Sequence[np.ndarray],
  protocol: Any,
  canvases: Sequence[canvases_lib.Size] = (),
) -> list[np.ndarray]:
  """Predicts the class probabilities of each pixel.

  Args:
    predictor: any predictor that has logits or probabilities.
    images: uint8 or uint16 [H, W, C] each, of any sizes.
    protocol: `config.eval`.
    canvases: as `plan_canvases` returns them; () for exact sizes.

  Returns:
    float32 [H, W, K] for each image; the argmax is that of `segment_images`.

  Raises:
    ValueError: the protocol is invalid, or the predictor cannot follow it or
      returns class ids only.
  """
  outputs, kind = _predict(predictor, images, protocol, False, canvases)
  if kind == 'softmax':
    return outputs
  return [predictors.softmax(x) for x in outputs]


def predict_logits(
  predictor: predictors.Predictor,
  images: Sequence[np.ndarray],
  protocol: Any,
  canvases: Sequence[canvases_lib.Size] = (),
) -> list[np.ndarray]:
  """Predicts the logits of each pixel, from one view of each image.

  Args:
    predictor: a predictor that has logits.
    images: uint8 or uint16 [H, W, C] each, of any sizes.
    protocol: `config.eval`.
    canvases: as `plan_canvases` returns them; () for exact sizes.

  Returns:
    float32 [H, W, K] for each image; the argmax is that of `segment_images`.

  Raises:
    ValueError: the protocol is invalid or has several views, which are averaged
      as probabilities; or the predictor has no logits.
  """
  if not _is_single_view(protocol):
    raise ValueError(
      f'eval.loss=True with eval.scales={tuple(protocol.scales)}, '
      f'eval.flip={protocol.flip} and eval.fit={tuple(protocol.fit)}: the loss '
      'sigmoid_cross_entropy needs logits, and views are averaged as '
      'probabilities; use (1.0,), False and (), or eval.loss=False'
    )
  if predictor.output == 'softmax':
    raise ValueError(
      'the loss sigmoid_cross_entropy needs logits, and the model has '
      'probabilities: use eval.loss=False'
    )
  return _predict(predictor, images, protocol, False, canvases)[0]


def _predict(
  predictor: predictors.Predictor,
  images: Sequence[np.ndarray],
  protocol: Any,
  allow_argmax: bool,
  canvases: Sequence[canvases_lib.Size] = (),
) -> tuple[list[np.ndarray], str]:
  """Computes one output per image by the protocol.

  Args:
    predictor: any predictor.
    images: [H, W, C] each, of any sizes.
    protocol: `config.eval`.
    allow_argmax: True if class ids are enough for the caller.
    canvases: (H, W) that whole images are padded to, where they fit.

  Returns:
    ([H, W, K] or [H, W] for each image, the kind of output).
  """
  predictor = apply_mode(predictor, protocol)
  check_eval_config(predictor, protocol)
  predictor = predictor.with_output(
    _choose_output(predictor, protocol, allow_argmax)
  )
  sizes_before = [image.shape[:2] for image in images]
  if not isinstance(predictor, predictors.ResizedPredictor):
    images = [
      pad_image(x, canvas_size(x.shape, protocol), predictor.mean)
      for x in images
    ]
  if not _is_single_view(protocol):
    outputs = tta_inference(predictor, images, protocol, canvases)
    kind = 'softmax'
  elif protocol.mode == 'slide' and allow_argmax:
    outputs = sliding_window_inference(
      predictor, images, protocol, class_ids=True
    )
    kind = 'argmax'
  else:
    outputs = _infer(predictor, images, protocol, canvases)
    kind = predictor.output
  return [
    output[:height, :width]
    for output, (height, width) in zip(outputs, sizes_before, strict=True)
  ], kind


def _choose_output(
  predictor: predictors.Predictor, protocol: Any, allow_argmax: bool
) -> str:
  """Chooses the kind of output that the predictor computes.

  Only one view of whole images can be computed as class ids: windows and views
  are averaged. A predictor of a fixed size keeps its own output, as the file it
  stands for would.
  """
  averages = protocol.mode == 'slide' or not _is_single_view(protocol)
  if averages or not allow_argmax:
    return 'logits' if predictor.output == 'argmax' else predictor.output
  return 'argmax' if predictor.input_size is None else predictor.output


# The protocol: which inference, at which size, and is that possible?


def apply_mode(
  predictor: predictors.Predictor, protocol: Any
) -> predictors.Predictor:
  """Wraps a predictor so that it computes at the size of the protocol.

  Mode 'static' resizes every image to `static_size`. A predictor of a fixed
  size resizes images to that size in mode 'whole' too.

  Args:
    predictor: any predictor; one that resizes already is returned unchanged.
    protocol: `config.eval`.

  Raises:
    ValueError: the predictor has another fixed size than `static_size`.
  """
  if protocol.mode == 'slide' or isinstance(
    predictor, predictors.ResizedPredictor
  ):
    return predictor
  if protocol.mode == 'static':
    return predictors.ResizedPredictor(predictor, protocol.static_size)
  if predictor.input_size is not None:
    return predictors.ResizedPredictor(predictor, predictor.input_size)
  return predictor


def check_eval_config(predictor: predictors.Predictor, protocol: Any) -> None:
  """Rejects a protocol that is invalid or that a predictor cannot follow.

  Args:
    predictor: any predictor.
    protocol: `config.eval`.

  Raises:
    ValueError: names the field of `config.eval` and the remedy.
  """
  if protocol.mode not in MODES:
    raise ValueError(f'eval.mode={protocol.mode!r} is not one of {MODES}')
  for name in ('batch_size', 'pad_multiple'):
    if protocol[name] < 1:
      raise ValueError(f'eval.{name}={protocol[name]} is not positive')
  if not protocol.scales or min(protocol.scales) <= 0:
    raise ValueError(f'eval.scales={tuple(protocol.scales)} must be positive')
  if protocol.fit and (len(protocol.fit) != 2 or min(protocol.fit) < 1):
    raise ValueError(
      f'eval.fit={tuple(protocol.fit)} is not a longer and a shorter side; '
      'use () to leave images as they are'
    )
  if protocol.pad_size and (
    len(protocol.pad_size) != 2 or min(protocol.pad_size) < 1 or protocol.fit
  ):
    raise ValueError(
      f'eval.pad_size={tuple(protocol.pad_size)} with '
      f'eval.fit={tuple(protocol.fit)}: pad_size is (H, W) for images of their '
      'own size; use () for one of the two'
    )
  if not 0 <= protocol.max_padding <= 1:
    raise ValueError(
      f'eval.max_padding={protocol.max_padding} is not in 0..1: 0.15 adds '
      'up to 15% of the pixels, 0 is exact'
    )
  if protocol.mode == 'slide':
    _check_windows(predictor, protocol)
  elif predictor.input_size is not None and (
    tuple(protocol.scales) != (1.0,) or protocol.fit
  ):
    raise ValueError(
      f'eval.scales={tuple(protocol.scales)}, eval.fit={tuple(protocol.fit)}: '
      f'a model of static size {tuple(predictor.input_size)} sees every image '
      'at that size; use eval.scales=(1.0,) and eval.fit=()'
    )


def _check_windows(predictor: predictors.Predictor, protocol: Any) -> None:
  """Rejects windows that leave gaps or that a predictor cannot compute."""
  for window, stride in zip(protocol.window, protocol.stride, strict=True):
    if not 0 < stride <= window:
      raise ValueError(
        f'eval.stride={tuple(protocol.stride)} leaves gaps between windows of '
        f'eval.window={tuple(protocol.window)}: use 1 up to the window size'
      )
  if predictor.input_size is None:
    return
  size = tuple(predictor.input_size)
  if isinstance(predictor, predictors.ResizedPredictor):
    raise ValueError(
      f'a model of static size {size}, which resizes images, has no sliding '
      'windows: use eval.mode=whole, or the model itself, not resized'
    )
  if tuple(protocol.window) != size:
    raise ValueError(
      f'a model of static size {size} has no sliding windows of '
      f'eval.window={tuple(protocol.window)}: use eval.window={size}, the only '
      'size that fits, or eval.mode=whole'
    )
  if padded_size(size, protocol) != size:
    raise ValueError(
      f'a model of static size {size} cannot compute windows of a size that '
      f'eval.pad_multiple={protocol.pad_multiple} and '
      f'eval.pad_offset={protocol.pad_offset} allow: the nearest are '
      f'{_nearest_sizes(size, protocol)}; export it at one of them'
    )


def _infer(
  predictor: predictors.Predictor,
  images: Sequence[np.ndarray],
  protocol: Any,
  canvases: Sequence[canvases_lib.Size],
) -> list[np.ndarray]:
  """Computes one view of each image; [H, W, K] or [H, W] each."""
  if protocol.mode == 'slide':
    return sliding_window_inference(predictor, images, protocol)
  if isinstance(predictor, predictors.ResizedPredictor):
    return resized_inference(predictor, images, protocol)
  return whole_inference(predictor, images, protocol, canvases)


# Sizes that the network computes at: few, or those of the images.


def input_sizes(
  size: Sequence[int], protocol: Any, canvases: Sequence[canvases_lib.Size] = ()
) -> list[tuple[int, int]]:
  """Returns the sizes that whole views of an image are padded to.

  Args:
    size: (H, W) of the image.
    protocol: `config.eval`.
    canvases: as `plan_canvases` returns them; () for exact sizes.

  Returns:
    (H, W) for each scale.
  """
  size = canvas_size(size, protocol)
  return [
    canvases_lib.choose_canvas(
      padded_size(_size_of_view(size, protocol, scale), protocol), canvases
    )
    for scale in protocol.scales
  ]


def plan_canvases(
  predictor: predictors.Predictor,
  sizes: Iterable[Sequence[int]],
  protocol: Any,
  max_padding: float,
) -> tuple[canvases_lib.Size, ...]:
  """Returns few sizes to compute images of many sizes at.

  Args:
    predictor: any predictor. For one of a fixed size, and for sliding windows,
      there is nothing to plan.
    sizes: (H, W) of each image.
    protocol: `config.eval`.
    max_padding: largest share of pixels that are added; 0 for exact sizes.

  Returns:
    (H, W) of each canvas; () for exact sizes.
  """
  if protocol.mode != 'whole' or predictor.input_size or not max_padding:
    return ()
  computed = [x for size in sizes for x in input_sizes(size, protocol)]
  return canvases_lib.plan_canvases(computed, max_padding)


def compile_ahead(
  predictor: predictors.Predictor,
  sizes: Iterable[Sequence[int]],
  protocol: Any,
  canvases: Sequence[canvases_lib.Size],
  image_spec: image_format.ImageSpec,
  executor: futures.Executor,
) -> None:
  """Compiles, in a thread, what `segment_images` computes of single images.

  Args:
    predictor: any predictor; one of a file has nothing to compile.
    sizes: (H, W) of the images in their order, each of which comes alone.
    protocol: `config.eval`.
    canvases: as `plan_canvases` returns them.
    image_spec: channels and depth of the images.
    executor: runs the compilation.
  """
  if protocol.mode != 'whole' or not isinstance(
    predictor, predictors.FlaxPredictor
  ):
    return
  check_eval_config(predictor, protocol)
  batches: dict[tuple, None] = {}  # in their order, each once
  for size in sizes:
    padded = canvas_size(size, protocol)
    for scale, computed in zip(
      protocol.scales, input_sizes(size, protocol, canvases), strict=True
    ):
      # A view of another size is resized, and has fractions.
      resized = _size_of_view(padded, protocol, scale) != padded
      batches[
        (1, *computed, image_spec.channels),
        np.dtype(np.float32) if resized else image_spec.dtype,
      ] = None
  predictor.with_output(
    _choose_output(predictor, protocol, allow_argmax=True)
  ).compile_ahead(list(batches), executor)


# Whole images: padded, and cut again.


def whole_inference(
  predictor: predictors.Predictor,
  images: Sequence[np.ndarray],
  protocol: Any,
  canvases: Sequence[canvases_lib.Size] = (),
) -> list[np.ndarray]:
  """Computes whole images, padded to a multiple of the network's stride.

  Images of the same padded size, or in the same canvas, run in one batch.

  Args:
    predictor: computes at any size.
    images: [H, W, C] each, of any sizes.
    protocol: `config.eval`, for its pad_multiple, pad_offset and batch_size.
    canvases: (H, W) that images are padded to, where they fit.

  Returns:
    [H, W, K] or [H, W] for each image.
  """
  padded = [
    pad_image(
      x,
      canvases_lib.choose_canvas(padded_size(x.shape, protocol), canvases),
      predictor.mean,
    )
    for x in images
  ]
  outputs = _run_in_batches(predictor, padded, protocol.batch_size)
  return [
    output[: image.shape[0], : image.shape[1]]
    for output, image in zip(outputs, images, strict=True)
  ]


def canvas_size(size: Sequence[int], protocol: Any) -> tuple[int, int]:
  """Returns (H, W) of an image that is padded at least to `eval.pad_size`."""
  height, width = (
    max(n, least)
    for n, least in zip(size[:2], protocol.pad_size or (1, 1), strict=True)
  )
  return height, width


def padded_size(size: Sequence[int], protocol: Any) -> tuple[int, int]:
  """Rounds (H, W) up to a multiple of `pad_multiple`, plus `pad_offset`.

  With an offset of 1 corners stay aligned: 513 = 16 * 32 + 1.
  """
  multiple, offset = protocol.pad_multiple, protocol.pad_offset
  height, width = (-(-(n - offset) // multiple) for n in size[:2])
  return height * multiple + offset, width * multiple + offset


def _nearest_sizes(size: Sequence[int], protocol: Any) -> str:
  """Names the (H, W) around a size that `padded_size` leaves as they are."""
  above = padded_size(size, protocol)
  below = tuple(
    n if n == m else n - protocol.pad_multiple
    for n, m in zip(above, size, strict=True)
  )
  return f'{below} and {above}' if min(below) > 0 else f'{above}'


def pad_image(
  image: np.ndarray, size: Sequence[int], fill: Sequence[float]
) -> np.ndarray:
  """Pads an image at the bottom and the right.

  Args:
    image: [H, W, C], integers or floats.
    size: (H, W) to pad to.
    fill: one value per channel, rounded for integer images.
  """
  height, width = image.shape[:2]
  if (height, width) == tuple(size):
    return image
  color = np.asarray(fill)
  if np.issubdtype(image.dtype, np.integer):
    color = np.rint(color)
  padded = np.empty((*size, image.shape[2]), image.dtype)
  padded[:] = color.astype(image.dtype)
  padded[:height, :width] = image
  return padded


def _run_in_batches(
  predictor: predictors.Predictor, images: Sequence[np.ndarray], batch_size: int
) -> list[np.ndarray]:
  """Runs images [H, W, C], those of the same shape together, in their order."""
  outputs: list = [None] * len(images)
  for batch in _batch_equal([(x.shape, x.dtype) for x in images], batch_size):
    for i, output in zip(
      batch, predictor(np.stack([images[i] for i in batch])), strict=True
    ):
      outputs[i] = output
  return outputs


def _batch_equal(keys: Sequence[tuple], batch_size: int) -> Iterator[list[int]]:
  """Groups the indices of equal keys, in their order, up to a batch."""
  groups: dict[tuple, list[int]] = {}
  for i, key in enumerate(keys):
    groups.setdefault(key, []).append(i)
  for members in groups.values():
    for start in range(0, len(members), batch_size):
      yield members[start : start + batch_size]


# Resized images: at one size, and back.


def resized_inference(
  predictor: predictors.ResizedPredictor,
  images: Sequence[np.ndarray],
  protocol: Any,
) -> list[np.ndarray]:
  """Computes images resized to one size, in batches across image sizes.

  Args:
    predictor: holds the size and both resizes.
    images: [H, W, C] each, of any sizes.
    protocol: `config.eval`, for its batch_size.

  Returns:
    [H, W, K] or [H, W] for each image.
  """
  resized = [predictor.resize_input(image) for image in images]
  outputs = _run_in_batches(predictor.predictor, resized, protocol.batch_size)
  return [
    predictor.resize_output(output, image.shape[:2])
    for output, image in zip(outputs, images, strict=True)
  ]


# Sliding windows: overlapping crops, averaged.


def window_starts(length: int, window: int, stride: int) -> list[int]:
  """Returns the starts of windows on one axis; the last window ends with it."""
  if length <= window:
    return [0]
  starts = list(range(0, length - window, stride))
  return [*starts, length - window]


class _Window(NamedTuple):
  """A window of an image.

  Attributes:
    image: index of the image.
    rows: of the image.
    columns: of the image.
    size: (H, W) that the window is padded to.
  """

  image: int
  rows: slice
  columns: slice
  size: tuple[int, int]


class _WindowMean:
  """Mean of the outputs of the windows of one image, summed on the host.

  Windows come row by row, and the rows above a window are complete. Sums are
  therefore kept for the height of one window only: class ids of a large image
  never need the scores of all of it.
  """

  def __init__(
    self,
    size: Sequence[int],
    window: tuple[int, int],
    starts: tuple[Sequence[int], Sequence[int]],
  ):
    """Counts how many windows cover each row and each column.

    Args:
      size: (H, W) of the image.
      window: (H, W) of each window.
      starts: first rows and first columns of the windows, ascending.
    """
    self._size, self._height = (size[0], size[1]), window[0]
    self._counts = [np.zeros(n, np.float32) for n in self._size]
    for count, length, firsts in zip(self._counts, window, starts, strict=True):
      for first in firsts:
        count[first : first + length] += 1
    self._missing = len(starts[0]) * len(starts[1])
    self._top = 0  # row of the image that the sums begin with

  def allocate(self, num_classes: int, class_ids: bool) -> np.ndarray:
    """Returns the array that `add` fills.

    Args:
      num_classes: K.
      class_ids: True for the argmax of the mean, uint8 [H, W]; False for the
        mean, float32 [H, W, K].
    """
    width = self._size[1]
    self._sum = np.zeros((self._height, width, num_classes), np.float32)
    self._result = (
      np.empty(self._size, np.uint8)
      if class_ids
      else np.empty((*self._size, num_classes), np.float32)
    )
    return self._result

  def add(self, window: _Window, output: np.ndarray) -> None:
    """Adds the output [h, w, K] of a window, whose padding is cut off."""
    done = window.rows.start - self._top
    if done:
      self._store(done)
      self._sum[:-done] = self._sum[done:]
      self._sum[-done:] = 0
      self._top = window.rows.start
    width = window.columns.stop - window.columns.start
    self._sum[:, window.columns] += output[: self._height, :width]
    self._missing -= 1
    if not self._missing:
      self._store(self._height)
      del self._sum

  def _store(self, rows: int) -> None:
    """Stores the mean of the first rows of the sums."""
    below = slice(self._top, self._top + rows)
    mean = self._sum[:rows]
    mean /= (self._counts[0][below, None] * self._counts[1])[..., None]
    self._result[below] = (
      predictors.argmax(mean) if self._result.ndim == 2 else mean
    )


def sliding_window_inference(
  predictor: predictors.Predictor,
  images: Sequence[np.ndarray],
  protocol: Any,
  *,
  class_ids: bool = False,
) -> list[np.ndarray]:
  """Computes overlapping windows of images and averages their outputs.

  `eval.window` grows to the next size that the network knows, `padded_size`: on
  others its outputs are shifted. A window is never larger than the image,
  though (mmsegmentation shrinks its windows in the same way), and then it is
  padded as a whole image is: one window that covers an image computes exactly
  the whole image. A predictor of a fixed size gets windows padded to that size.
  Windows of the same size run in one batch, across images. Sums are kept on the
  host, for the rows of one window at a time.

  Args:
    predictor: computes at any size, or at the size of the window.
    images: [H, W, C] each, of any sizes.
    protocol: `config.eval`, for its window, stride, padding and batch_size.
    class_ids: True for the argmax of the means, which needs less memory.

  Returns:
    float32 [H, W, K] for each image; uint8 [H, W] with `class_ids`.
  """
  means: list[_WindowMean] = []
  windows: list[_Window] = []
  for i, image in enumerate(images):
    allowed = predictor.input_size or padded_size(protocol.window, protocol)
    height, width = (
      min(n, limit) for n, limit in zip(image.shape[:2], allowed, strict=True)
    )
    size = predictor.input_size or padded_size((height, width), protocol)
    tops = window_starts(image.shape[0], height, protocol.stride[0])
    lefts = window_starts(image.shape[1], width, protocol.stride[1])
    means.append(_WindowMean(image.shape, (height, width), (tops, lefts)))
    windows += [
      _Window(i, slice(y, y + height), slice(x, x + width), size)
      for y in tops
      for x in lefts
    ]
  results: list = [None] * len(images)
  keys = [(w.size, images[w.image].dtype) for w in windows]
  for batch in _batch_equal(keys, protocol.batch_size):
    members = [windows[n] for n in batch]
    crops = [
      pad_image(images[w.image][w.rows, w.columns], w.size, predictor.mean)
      for w in members
    ]
    outputs = predictor(np.stack(crops))
    for window, output in zip(members, outputs, strict=True):
      i, mean = window.image, means[window.image]
      if results[i] is None:
        results[i] = mean.allocate(output.shape[-1], class_ids)
      mean.add(window, output)
  return results


# Test-time augmentation: scales and mirror images, averaged.


def _tta_views(protocol: Any) -> list[tuple[float, bool]]:
  """Returns (scale, flip) of each view of an image."""
  flips = (False, True) if protocol.flip else (False,)
  return [(scale, flip) for scale in protocol.scales for flip in flips]


def _is_single_view(protocol: Any) -> bool:
  """Returns True if images are computed once, at their own size."""
  return _tta_views(protocol) == [(1.0, False)] and not protocol.fit


def view_size(
  size: Sequence[int], fit: Sequence[int], scale: float
) -> tuple[int, int]:
  """Returns (H, W) of one view of an image.

  Args:
    size: (H, W) of the image.
    fit: (longer, shorter) side that the image is fitted into first, keeping its
      aspect ratio; () leaves it as it is.
    scale: factor on both sides; halves are rounded up, as in mmcv.
  """
  size = sizes.fit_size(size[:2], 1.0, *fit) if fit else size[:2]
  height, width = (max(1, int(n * scale + 0.5)) for n in size)
  return height, width


def canvas_view_size(
  size: Sequence[int], offset: int, scale: float
) -> tuple[int, int]:
  """Returns (H, W) of one view of an image that was padded to a canvas.

  TF DeepLab scales the distance between corner pixels (`scale_dimension` of its
  model.py): views of 513 = 32 * 16 + 1 are 385, 641, 769 ..., of that form too.

  Args:
    size: (H, W) of the canvas.
    offset: `config.eval.pad_offset`, 1 for sizes of the form 32k + 1.
    scale: factor; fractions are dropped.
  """
  height, width = (max(1, int((n - offset) * scale + offset)) for n in size[:2])
  return height, width


def _size_of_view(
  size: Sequence[int], protocol: Any, scale: float
) -> tuple[int, int]:
  """Returns (H, W) of one view of an image of `canvas_size`."""
  if protocol.pad_size:
    return canvas_view_size(size, protocol.pad_offset, scale)
  return view_size(size, protocol.fit, scale)


def _resize_to_view(
  image: np.ndarray, protocol: Any, scale: float
) -> np.ndarray:
  """Resizes [H, W, C] to one view: float32 unless it has that size."""
  size = _size_of_view(image.shape, protocol, scale)
  if size == image.shape[:2]:
    return image
  return resize.resize_bilinear(image, size)


def tta_inference(
  predictor: predictors.Predictor,
  images: Sequence[np.ndarray],
  protocol: Any,
  canvases: Sequence[canvases_lib.Size] = (),
) -> list[np.ndarray]:
  """Averages the probabilities of several views: test-time augmentation.

  Each view, a scale with or without mirroring, is resized back to the size of
  the image before its softmax.

  Args:
    predictor: has logits or probabilities.
    images: [H, W, C] each, of any sizes; with `eval.pad_size` they are padded.
    protocol: `config.eval`, for its scales, flip, fit, pad_size and pad_offset.
    canvases: (H, W) that views are padded to, where they fit.

  Returns:
    float32 [H, W, K] for each image.
  """
  views = _tta_views(protocol)
  means: list = [None] * len(images)
  for scale, flip in views:
    scaled = [_resize_to_view(x, protocol, scale) for x in images]
    outputs = _infer(
      predictor,
      [x[:, ::-1] if flip else x for x in scaled],
      protocol,
      canvases,
    )
    for i, output in enumerate(outputs):
      output = output[:, ::-1] if flip else output
      output = resize.resize_bilinear(output, images[i].shape[:2])
      if predictor.output == 'logits':
        output = predictors.softmax(output)
      if means[i] is None:
        means[i] = np.array(output)
      else:
        means[i] += output
  for mean in means:
    mean /= len(views)
  return means
