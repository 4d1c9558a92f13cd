"""Calibration: int8 weights and activation ranges of a float network."""

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

# Decay of the moving average of minimum and maximum.
_RANGE_DECAY = 0.99


def check_images(images: Sequence[np.ndarray]) -> None:
  """Raises an error for images that activation ranges cannot be taken from.

  Args:
    images: [H, W, C] each.

  Raises:
    ValueError: there are fewer than two images, or each has a single color.
  """
  if len(images) < 2:
    raise ValueError(
      f'{len(images)} calibration images are too few for activation ranges: '
      'use 2 or more, 100 are usual (--num_calibration_images, or more '
      'images in the folder of --calibration_images, in an export; '
      'config.quantization.calibration.images in training)'
    )
  if all(
    np.ptp(image.reshape(-1, image.shape[-1]), axis=0).max() == 0
    for image in images
  ):
    raise ValueError(
      f'all {len(images)} calibration images have a single color each: their '
      'activation ranges are not those of photographs; look at the images'
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
      f'calibration percentile {percent} must be more than 50 and at most 100'
    )
  check_images(images)


def _group_by_tensor(tree: PyTree) -> dict[tuple, dict[str, Any]]:
  """Returns {path of a tensor: {key: leaf}} of a collection."""
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
  """Returns the activation ranges of a network, the collection 'quant_stats'.

  The network runs in float, on running BatchNorm statistics: ranges observed in
  training mode clip the activations of the exported network.

  Args:
    model: built with depthwise and pointwise 'conv', of normalized images.
    rules: the layers that are quantized.
    variables: {'params', 'batch_stats'}.
    images: [H, W, C] each, not normalized, of one size.
    mean: one value for each channel.
    std: one value for each channel.
    method: 'minmax', 'average', 'percentile' or 'mse'.
    percentile: for 'percentile', such as 99.99.

  Returns:
    {'min', 'max'}, float32 scalars, at the path of each tensor.

  Raises:
    ValueError: the method is unknown, the percentile out of range, or the
      images are too few or too plain.
  """
  _check_arguments(images, method, percentile)
  providers = simulator.load_providers()
  shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  variables = {k: variables[k] for k in ('params', 'batch_stats')}
  variables = jax.tree.map(jax.numpy.asarray, variables)

  def observe(network: Any, extra: PyTree) -> Iterator[dict]:
    apply: Callable = jax.jit(
      lambda v, x: network.apply(v, x, mutable=['observed'])[1]['observed']
    )
    for image in images:
      x = image_format.normalize_image(
        np.asarray(image, np.float32)[None], shift, scale
      )
      yield _group_by_tensor(apply({**variables, **extra}, x))

  observed = list(observe(providers.observe_ranges(model, rules), {}))
  extremes = {
    path: range_estimators.minmax_range([x[path] for x in observed])
    for path in observed[0]
  }
  if method == 'average':
    extremes = {
      path: range_estimators.moving_average_range(
        [x[path] for x in observed], _RANGE_DECAY
      )
      for path in extremes
    }
  result = dict(extremes)
  if method in range_estimators.HISTOGRAM_METHODS:
    counts: dict[tuple, Any] = dict.fromkeys(extremes, 0)
    network = providers.observe_ranges(model, rules, histogram=True)
    full = {'quant_stats': _unflatten_tensors(extremes)}
    for histograms in observe(network, full):
      for path, x in histograms.items():
        counts[path] = counts[path] + x['counts'].astype(np.int64)
    for path, count in counts.items():
      if method == 'percentile':
        result[path] = range_estimators.percentile_range(
          count, extremes[path], percentile
        )
      elif not observed[0][path]['int16']:  # 16 bits need no clipping
        result[path] = range_estimators.mse_range(count, extremes[path])
  return _unflatten_tensors(result)


def fold_and_equalize(
  model: Any,
  rules: rules_lib.Rules,
  variables: PyTree,
  images: Sequence[np.ndarray],
  config: 'ConfigDict',
) -> PyTree:
  """Folds BatchNorms and equalizes channels; the function stays the same.

  Channels are equalized if `config.quantization.calibration.equalize` is set,
  and if kernels have a scale for each channel: with one scale for a kernel the
  depthwise ones would lose precision.

  Args:
    model: built with depthwise and pointwise 'conv', of normalized images.
    rules: the layers that are quantized.
    variables: {'params', 'batch_stats'}; others are kept.
    images: [H, W, C] each, not normalized, of one size.
    config: the experiment; `data` and `quantization.calibration` are read.
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
  """Returns the float variables that int8 starts from, without ranges.

  BatchNorms are folded, channels equalized and kernels rounded, as
  `config.quantization.calibration` says.

  Args:
    model: built with depthwise and pointwise 'conv', of normalized images.
    rules: the layers that are quantized.
    variables: {'params', 'batch_stats'}; others are kept.
    images: [H, W, C] each, not normalized, of one size.
    config: the experiment; `data` and `quantization.calibration` are read.

  Raises:
    ValueError: the rounding method is unknown, or the images are too few or too
      plain.
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
  """Adds the activation ranges, the collection 'quant_stats', to variables.

  Args:
    model: built with depthwise and pointwise 'conv', of normalized images.
    rules: the layers that are quantized.
    variables: {'params', 'batch_stats'}; others are kept.
    images: [H, W, C] each, not normalized, of one size.
    config: the experiment; `data` and `quantization.calibration` are read.

  Raises:
    ValueError: the method is unknown, the percentile out of range, or the
      images are too few or too plain.
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
  """Returns the collection of {path of a tensor: {key: leaf}}."""
  return flax.traverse_util.unflatten_dict(
    {(*path, key): v for path, x in tensors.items() for key, v in x.items()}
  )
