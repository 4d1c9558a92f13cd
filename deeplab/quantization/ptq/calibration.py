"""Calibration: the ranges of a trained float network, from images."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from deeplab.data import image_format
from deeplab.quantization import rules as rules_lib
from deeplab.quantization import simulator
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import equalization
from deeplab.quantization.ptq import gptq
from deeplab.quantization.ptq import range_estimators

if TYPE_CHECKING:
  # Only named here: a machine without it can still build modules.
  from ml_collections import ConfigDict

PyTree = Any

# Of the moving average of extremes.
_RANGE_DECAY = 0.99


def check_images(images: Sequence[np.ndarray]) -> None:
  """Refuses images that tell no ranges.

  Args:
    images: [H, W, C] each.

  Raises:
    ValueError: fewer than two images, or none with two colours in it.
  """
  if len(images) < 2:
    raise ValueError(
      f'{len(images)} calibration images tell too little of the ranges: take 2 '
      'or more, 100 are usual (--calibration_images of an export, '
      'config.quantization.calibration.images of training)'
    )
  if all(
    np.ptp(image.reshape(-1, image.shape[-1]), axis=0).max() == 0
    for image in images
  ):
    raise ValueError(
      f'all {len(images)} calibration images are of one colour each: their '
      'ranges are not those of photographs; look at the training images'
    )


def _check_arguments(
  images: Sequence[np.ndarray], method: str, percent: float
) -> None:
  if method not in range_estimators.METHODS:
    raise ValueError(
      f'calibration method {method!r} is not one of {range_estimators.METHODS}'
    )
  if not 50 < percent <= 100:
    raise ValueError(
      f'calibration percentile {percent} is not more than 50 and at most 100'
    )
  check_images(images)


def _group_by_tensor(tree: PyTree) -> dict[tuple, dict[str, Any]]:
  """Returns the leaves of a collection, tensor by tensor."""
  tensors: dict[tuple, dict[str, Any]] = {}
  for (*path, key), leaf in flax.traverse_util.flatten_dict(tree).items():
    tensors.setdefault(tuple(path), {})[key] = np.asarray(leaf)
  return tensors


def calibrate_ranges(
  model: Any,
  rules: rules_lib.Rules,
  variables: PyTree,
  images: Sequence[np.ndarray],
  *,
  mean: Sequence[float],
  std: Sequence[float],
  method: str,
  percentile: float,
) -> PyTree:
  """Returns the collection 'quant_stats' of calibrated activation ranges.

  The network runs in float and in the mode that is deployed (running BatchNorm
  statistics): ranges from training mode saturate.

  Args:
    model: built with depthwise and pointwise 'conv', of normalised images.
    rules: what is quantised.
    variables: {'params', 'batch_stats'}.
    images: [H, W, C] each, values as they are, of one size.
    mean: a value a channel.
    std: likewise.
    method: of `ranges.METHODS`.
    percentile: of that method, such as 99.99.

  Raises:
    ValueError: as `check_images`, or an argument has no such value.
  """
  _check_arguments(images, method, percentile)
  providers = simulator.load_providers()
  shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  variables = {k: variables[k] for k in ('params', 'batch_stats')}
  variables = jax.tree.map(jax.numpy.asarray, variables)

  def look(network: Any, given: PyTree) -> Iterator[dict]:
    seen: Callable = jax.jit(
      lambda v, x: network.apply(v, x, mutable=['observed'])[1]['observed']
    )
    for image in images:
      x = image_format.normalize_image(
        np.asarray(image, np.float32)[None], shift, scale
      )
      yield _group_by_tensor(seen({**variables, **given}, x))

  seen = list(look(providers.observe_ranges(model, rules), {}))
  whole = {
    path: range_estimators.minmax_range([x[path] for x in seen])
    for path in seen[0]
  }
  if method == 'average':
    whole = {
      path: range_estimators.moving_average_range(
        [x[path] for x in seen], _RANGE_DECAY
      )
      for path in whole
    }
  result = dict(whole)
  if method in range_estimators.HISTOGRAM_METHODS:
    counts: dict[tuple, Any] = dict.fromkeys(whole, 0)
    network = providers.observe_ranges(model, rules, histogram=True)
    for found in look(network, {'quant_stats': _unflatten_tensors(whole)}):
      for path, x in found.items():
        counts[path] = counts[path] + x['counts'].astype(np.int64)
    for path, count in counts.items():
      if method == 'percentile':
        result[path] = range_estimators.percentile_range(
          count, whole[path], percentile
        )
      elif not seen[0][path]['int16']:  # 16 bits have steps enough for all
        result[path] = range_estimators.mse_range(count, whole[path])
  return _unflatten_tensors(result)


def fold_and_equalize(
  model: Any,
  rules: rules_lib.Rules,
  variables: PyTree,
  images: Sequence[np.ndarray],
  config: 'ConfigDict',
) -> PyTree:
  """Returns float variables of the same function, ready to be rounded.

  BatchNorms are folded and, as a config's calibration says, the channels that
  depthwise kernels read equalised. With one scale a tensor these kernels would
  pay for it.

  Args:
    model: as of `prepare_int8_weights`.
    rules: likewise.
    variables: likewise.
    images: likewise.
    config: likewise.
  """
  data = config.data
  variables = batch_norm_folding.fold_batch_norms(
    model, variables, len(data.mean)
  )
  if not config.quantization.calibration.equalize or rules.weights == 'tensor':
    return variables
  return equalization.equalize_channels(
    model, variables, images, mean=data.mean, std=data.std
  )


def prepare_int8_weights(
  model: Any,
  rules: rules_lib.Rules,
  variables: PyTree,
  images: Sequence[np.ndarray],
  config: 'ConfigDict',
) -> PyTree:
  """Returns float variables as int8 begins with them, but for ranges.

  They are `fold_and_equalize`, and kernels rounded as a config's calibration
  says.

  Args:
    model: built with depthwise and pointwise 'conv', of normalised images.
    rules: what is quantised.
    variables: {'params', 'batch_stats'}.
    images: [H, W, C] each, values as they are, of one size.
    config: the experiment; its `data` and `quantization.calibration` count.

  Raises:
    ValueError: the method of rounding is unknown, or as `check_images`.
  """
  method = config.quantization.calibration.rounding
  if method not in gptq.ROUNDING_METHODS:
    raise ValueError(
      f'config.quantization.calibration.rounding={method!r} is not one of '
      f'{gptq.ROUNDING_METHODS}'
    )
  check_images(images)
  variables = fold_and_equalize(model, rules, variables, images, config)
  if method == 'nearest':
    return variables
  data = config.data
  return gptq.round_kernels_gptq(
    model, rules, variables, images, mean=data.mean, std=data.std
  )


def add_activation_ranges(
  model: Any,
  rules: rules_lib.Rules,
  variables: PyTree,
  images: Sequence[np.ndarray],
  config: 'ConfigDict',
) -> PyTree:
  """Returns variables with the ranges that a config's calibration gives.

  Args:
    model: built with depthwise and pointwise 'conv', of normalised images.
    rules: what is quantised.
    variables: {'params', 'batch_stats'}; others are kept.
    images: [H, W, C] each, values as they are, of one size.
    config: the experiment; its `data` and `quantization.calibration` count.

  Raises:
    ValueError: as `calibrate_ranges`.
  """
  calibration = config.quantization.calibration
  quant_stats = calibrate_ranges(
    model,
    rules,
    variables,
    images,
    mean=config.data.mean,
    std=config.data.std,
    method=calibration.method,
    percentile=calibration.percentile,
  )
  return {**variables, 'quant_stats': quant_stats}


def _unflatten_tensors(tensors: dict[tuple, range_estimators.Range]) -> PyTree:
  """Returns the collection of what is known tensor by tensor."""
  return flax.traverse_util.unflatten_dict(
    {(*path, key): v for path, x in tensors.items() for key, v in x.items()}
  )
