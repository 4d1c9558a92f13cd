"""Inference over images of any size: whole or by windows, in several views.

What a model computes on (padded batches, windows, scaled and mirrored views)
is arranged here and undone again, so that each image gets one map of its own
size whichever predictor ran.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import sys
import time
from typing import Any

from absl import logging
import numpy as np
import tqdm

from deeplab import text
from deeplab.data import resize
from deeplab.data.augmentation import sizes
from deeplab.inference import predictors

MODES = ('whole', 'slide', 'static')


def track_progress(
  items: Iterable,
  total: int | None,
  what: str,
  every: float = 30.0,
  size: Callable[[Any], int] = lambda item: 1,
) -> Iterator:
  """Yields the items, with a bar on a terminal and log lines elsewhere.

  Args:
    items: what to go through; an item counts when the next one is asked for.
    total: how many images there are, if known.
    what: what is being done, a word or two.
    every: seconds between log lines.
    size: how many images an item is.
  """
  if sys.stderr.isatty():
    with tqdm.tqdm(
      total=total, desc=what, unit='image', dynamic_ncols=True
    ) as bar:
      for item in items:
        yield item
        bar.update(size(item))
    return
  start = last = time.monotonic()
  count = 0
  of = '' if total is None else f' of {total}'
  for item in items:
    yield item
    count += size(item)
    now = time.monotonic()
    if now - last >= every:
      last = now
      logging.info(
        '%s: %d%s images, %.1f a second', what, count, of, count / (now - start)
      )
  seconds = max(time.monotonic() - start, 1e-6)
  logging.info('%s: %s in %.1f s', what, text.plural(count, 'image'), seconds)


def padded_size(size: Sequence[int], config: Any) -> tuple[int, int]:
  """Returns (H, W) rounded up to multiples of `pad_multiple` + `pad_offset`."""
  multiple, offset = config.pad_multiple, config.pad_offset
  height, width = (-(-(n - offset) // multiple) for n in size[:2])
  return height * multiple + offset, width * multiple + offset


def view_size(
  size: Sequence[int], frame: Sequence[int], scale: float
) -> tuple[int, int]:
  """Returns (H, W) of an image's view.

  Args:
    size: (H, W) of the image.
    frame: (long, short) that the image is fitted into first, its sides in
      their ratio; () leaves it as it is.
    scale: factor on both sides; halves are rounded up (mmcv).
  """
  size = sizes.fit_size(size[:2], 1.0, *frame) if frame else size[:2]
  height, width = (max(1, int(n * scale + 0.5)) for n in size)
  return height, width


def pad_image(
  image: np.ndarray, size: Sequence[int], fill: Sequence[float]
) -> np.ndarray:
  """Pads [H, W, C] at the bottom and the right with a colour, to (H, W)."""
  height, width = image.shape[:2]
  if (height, width) == tuple(size):
    return image
  colour = np.asarray(fill)
  if np.issubdtype(image.dtype, np.integer):
    colour = np.rint(colour)
  result = np.empty((*size, image.shape[2]), image.dtype)
  result[:] = colour.astype(image.dtype)
  result[:height, :width] = image
  return result


def window_starts(length: int, window: int, stride: int) -> list[int]:
  """Returns where windows begin on an axis; the last one ends at its end."""
  if length <= window:
    return [0]
  starts = list(range(0, length - window, stride))
  return [*starts, length - window]


def whole_inference(
  predictor: predictors.Predictor, images: Sequence[np.ndarray], config: Any
) -> list[np.ndarray]:
  """Asks about whole images [H, W, C]; returns [H, W, K] or [H, W] each.

  Images that have one size once padded (or resized, for a predictor of one
  size) run together.
  """
  if isinstance(predictor, predictors.ResizedPredictor):
    run, restore = predictor.predictor, predictor.resize_output
    ready = [predictor.resize_input(image) for image in images]
  else:
    run = predictor
    restore = lambda output, size: output[: size[0], : size[1]]
    ready = [
      pad_image(x, padded_size(x.shape, config), predictor.mean) for x in images
    ]
  results: list = [None] * len(images)
  for batch in _batch_same_shape(ready, config.batch_size):
    outputs = run(np.stack([ready[i] for i in batch]))
    for i, output in zip(batch, outputs, strict=True):
      results[i] = restore(output, images[i].shape[:2])
  return results


def sliding_window_inference(
  predictor: predictors.Predictor, images: Sequence[np.ndarray], config: Any
) -> list[np.ndarray]:
  """Asks about overlapping windows; returns mean outputs [H, W, K] each.

  A side shorter than the window is a window's whole side, padded as whole
  images are (mmsegmentation's windows shrink likewise): one window that covers
  an image is the whole image. A predictor of one size has the image padded to
  that instead. Windows of one size run together in batches; sums are kept on
  the host, one image at a time costing its own size times K.
  """
  ready, places = [], []
  for i, image in enumerate(images):
    window = config.window
    if predictor.input_size is None:
      window = np.minimum(window, padded_size(image.shape, config))
    size = np.maximum(image.shape[:2], window)
    ready.append(pad_image(image, tuple(size), predictor.mean))
    places += [
      (i, slice(y, y + window[0]), slice(x, x + window[1]))
      for y in window_starts(size[0], window[0], config.stride[0])
      for x in window_starts(size[1], window[1], config.stride[1])
    ]
  cuts = [ready[i][y, x] for i, y, x in places]
  results: list = [None] * len(images)
  left = collections.Counter(i for i, _, _ in places)
  counts: dict[int, np.ndarray] = {}
  for batch in _batch_same_shape(cuts, config.batch_size):
    outputs = predictor(np.stack([cuts[n] for n in batch]))
    for n, output in zip(batch, outputs, strict=True):
      i, y, x = places[n]
      if results[i] is None:
        shape = ready[i].shape[:2]
        results[i] = np.zeros((*shape, output.shape[-1]), np.float32)
        counts[i] = np.zeros((*shape, 1), np.float32)
      results[i][y, x] += output
      counts[i][y, x] += 1
      left[i] -= 1
      if not left[i]:
        height, width = images[i].shape[:2]
        results[i] = results[i][:height, :width]
        results[i] /= counts.pop(i)[:height, :width]
  return results


def _batch_same_shape(
  images: Sequence[np.ndarray], batch_size: int
) -> Iterator[list[int]]:
  """Groups the indices of images of one shape and type, up to a batch."""
  groups: dict[tuple, list[int]] = {}
  for i, image in enumerate(images):
    groups.setdefault((image.shape, image.dtype), []).append(i)
  for members in groups.values():
    for start in range(0, len(members), batch_size):
      yield members[start : start + batch_size]


def apply_static_mode(
  predictor: predictors.Predictor, config: Any
) -> predictors.Predictor:
  """Returns what answers: under the mode 'static', at `static_size` alone.

  Args:
    predictor: see `predictors`.
    config: `config.eval`.
  """
  if config.mode != 'static' or isinstance(
    predictor, predictors.ResizedPredictor
  ):
    return predictor
  return predictors.ResizedPredictor(predictor, config.static_size)


def check_eval_config(predictor: predictors.Predictor, config: Any) -> None:
  """Refuses what the predictor or the config cannot do.

  Raises:
    ValueError: says which field of `config.eval` and what to set instead.
  """
  if config.mode not in MODES:
    raise ValueError(f'eval.mode={config.mode!r} is not one of {MODES}')
  for name in ('batch_size', 'pad_multiple'):
    if config[name] < 1:
      raise ValueError(f'eval.{name}={config[name]} is not positive')
  if not config.scales or min(config.scales) <= 0:
    raise ValueError(f'eval.scales={tuple(config.scales)} must be positive')
  if config.fit and (len(config.fit) != 2 or min(config.fit) < 1):
    raise ValueError(
      f'eval.fit={tuple(config.fit)} is not a longer and a shorter side; '
      'use () to leave images as they are'
    )
  slide = config.mode == 'slide'
  if slide:
    for window, stride in zip(config.window, config.stride, strict=True):
      if not 0 < stride <= window:
        raise ValueError(
          f'eval.stride={tuple(config.stride)} leaves gaps between windows of '
          f'eval.window={tuple(config.window)}: use 1 up to the window size'
        )
  if predictor.input_size is None:
    return
  if slide and (
    isinstance(predictor, predictors.ResizedPredictor)
    or tuple(config.window) != tuple(predictor.input_size)
  ):
    raise ValueError(
      f'a model of static size {tuple(predictor.input_size)} has no sliding '
      f'windows of {tuple(config.window)}: use eval.mode=whole, or that size '
      'as eval.window and the model itself, not resized'
    )
  if not slide and (tuple(config.scales) != (1.0,) or config.fit):
    raise ValueError(
      f'eval.scales={tuple(config.scales)}, eval.fit={tuple(config.fit)}: a '
      f'model of static size {tuple(predictor.input_size)} sees every image at '
      'that size; use eval.scales=(1.0,) and eval.fit=()'
    )


def segment_images(
  predictor: predictors.Predictor, images: Sequence[np.ndarray], config: Any
) -> list[np.ndarray]:
  """Returns the class of each pixel of each image.

  Whole images are computed at their own size; under the mode 'static' they are
  resized to `static_size` and what comes out is resized back, as a file of
  that size is used.

  One view of whole images as they are is the arg-max, taken on the device where
  the predictor can. Other views (scales, flip, images fitted into a frame) are
  resized bilinearly to the image's size, as logits where the predictor has
  them, and averaged as probabilities (mmsegmentation, TF DeepLab); sliding
  windows are averaged as the predictor's own output before that.

  Args:
    predictor: see `predictors`. One of static size is asked through
      `predictors.ResizedPredictor`.
    images: uint8 or uint16 [H, W, C] each, of any sizes.
    config: `config.eval`.

  Returns:
    uint8 [H, W] each.

  Raises:
    ValueError: the config asks what the predictor cannot do.
  """
  outputs, form = _predict_views(predictor, images, config, allow_argmax=True)
  return outputs if form == 'ids' else [predictors.argmax(x) for x in outputs]


def predict_probabilities(
  predictor: predictors.Predictor, images: Sequence[np.ndarray], config: Any
) -> list[np.ndarray]:
  """Returns float32 [H, W, K] each, whose arg-max is `segment_images`.

  Raises:
    ValueError: the config asks what the predictor cannot do, or it gives ids
      alone.
  """
  outputs, form = _predict_views(predictor, images, config, allow_argmax=False)
  if form == 'softmax':
    return outputs
  return [predictors.softmax(x) for x in outputs]


def predict_logits(
  predictor: predictors.Predictor, images: Sequence[np.ndarray], config: Any
) -> list[np.ndarray]:
  """Returns float32 [H, W, K] each, whose arg-max is `segment_images`.

  Raises:
    ValueError: the config asks what the predictor cannot do, or for several
      views, which are averaged as probabilities; or it has no logits.
  """
  if not _is_single_view(config):
    raise ValueError(
      f'eval.loss=True with eval.scales={tuple(config.scales)}, '
      f'eval.flip={config.flip} and eval.fit={tuple(config.fit)}: the loss '
      'sigmoid_cross_entropy is of logits, and views are averaged as '
      'probabilities; use (1.0,), False and (), or eval.loss=False'
    )
  if predictor.output == 'softmax':
    raise ValueError(
      'the loss sigmoid_cross_entropy is of logits, and the model has '
      'probabilities: use eval.loss=False'
    )
  return _predict_views(predictor, images, config, allow_argmax=False)[0]


def _tta_views(config: Any) -> list[tuple[float, bool]]:
  """Returns (scale, flip) of each view of an image."""
  flips = (False, True) if config.flip else (False,)
  return [(scale, flip) for scale in config.scales for flip in flips]


def _is_single_view(config: Any) -> bool:
  """Returns whether images are looked at once, as they are."""
  return _tta_views(config) == [(1.0, False)] and not config.fit


def _predict_views(
  predictor: predictors.Predictor,
  images: Sequence[np.ndarray],
  config: Any,
  allow_argmax: bool,
) -> tuple[list[np.ndarray], str]:
  """Returns one output an image and what it is, as of predictors.

  Args:
    predictor: see `segment_images`.
    images: likewise.
    config: likewise.
    allow_argmax: ids will do.
  """
  predictor = apply_static_mode(predictor, config)
  check_eval_config(predictor, config)
  at_once = config.mode != 'slide'
  size = predictor.input_size if at_once else None
  if size is not None and not isinstance(
    predictor, predictors.ResizedPredictor
  ):
    predictor = predictors.ResizedPredictor(predictor, size)
  views, one_view = _tta_views(config), _is_single_view(config)
  output = predictor.output
  if allow_argmax and at_once and one_view:
    output = 'ids' if size is None else output
  else:
    output = 'logits' if output == 'ids' else output
  predictor = predictor.with_output(output)
  run = whole_inference if at_once else sliding_window_inference
  if one_view:
    return run(predictor, images, config), output

  sums: list = [None] * len(images)
  for scale, flip in views:
    scaled = []
    for image in images:
      size = view_size(image.shape, config.fit, scale)
      if size != image.shape[:2]:
        image = resize.resize_bilinear(image, size)
      scaled.append(image[:, ::-1] if flip else image)
    for i, result in enumerate(run(predictor, scaled, config)):
      if flip:
        result = result[:, ::-1]
      result = resize.resize_bilinear(result, images[i].shape[:2])
      if predictor.output == 'logits':
        result = predictors.softmax(result)
      if sums[i] is None:
        sums[i] = np.array(result)
      else:
        sums[i] += result
  for total in sums:
    total /= len(views)
  return sums, 'softmax'
