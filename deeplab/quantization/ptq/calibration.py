"""Calibration: the ranges of a trained float network, from images."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

from absl import logging
import flax.traverse_util
import jax
import numpy as np

from deeplab import networks
from deeplab.data import dataset_info
from deeplab.data import pipeline
from deeplab.data import resize
from deeplab.data.augmentation import compose
from deeplab.models import registry
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import equalization
from deeplab.quantization.ptq import gptq
from deeplab.quantization.ptq import range_estimators

if TYPE_CHECKING:
  # Only named here: a machine without it can still build modules.
  from ml_collections import ConfigDict

PyTree = Any

# Of the moving average of extremes.
_DECAY = 0.99


def check(images: Sequence[np.ndarray]) -> None:
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


def _check(images: Sequence[np.ndarray], method: str, percent: float) -> None:
  if method not in range_estimators.METHODS:
    raise ValueError(
      f'calibration method {method!r} is not one of {range_estimators.METHODS}'
    )
  if not 50 < percent <= 100:
    raise ValueError(
      f'calibration percentile {percent} is not more than 50 and at most 100'
    )
  check(images)


def _by_tensor(tree: PyTree) -> dict[tuple, dict[str, Any]]:
  """Returns the leaves of a collection, tensor by tensor."""
  tensors: dict[tuple, dict[str, Any]] = {}
  for (*path, key), leaf in flax.traverse_util.flatten_dict(tree).items():
    tensors.setdefault(tuple(path), {})[key] = np.asarray(leaf)
  return tensors


def calibrate(
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
  """Returns 'quant_stats' for `providers.simulate` and `providers.lower`.

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
    ValueError: as `check`, or an argument has no such value.
  """
  _check(images, method, percentile)
  from deeplab.quantization.simulator import providers

  shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  variables = {k: variables[k] for k in ('params', 'batch_stats')}
  variables = jax.tree.map(jax.numpy.asarray, variables)

  def look(network: Any, given: PyTree) -> Iterator[dict]:
    seen: Callable = jax.jit(
      lambda v, x: network.apply(v, x, mutable=['observed'])[1]['observed']
    )
    for image in images:
      x = compose.normalize(np.asarray(image, np.float32)[None], shift, scale)
      yield _by_tensor(seen({**variables, **given}, x))

  seen = list(look(providers.observe(model, rules), {}))
  whole = {
    path: range_estimators.extremes([x[path] for x in seen]) for path in seen[0]
  }
  if method == 'average':
    whole = {
      path: range_estimators.average([x[path] for x in seen], _DECAY)
      for path in whole
    }
  result = dict(whole)
  if method in range_estimators.FROM_HISTOGRAMS:
    counts: dict[tuple, Any] = dict.fromkeys(whole, 0)
    network = providers.observe(model, rules, histogram=True)
    for found in look(network, {'quant_stats': _tree(whole)}):
      for path, x in found.items():
        counts[path] = counts[path] + x['counts'].astype(np.int64)
    for path, count in counts.items():
      if method == 'percentile':
        result[path] = range_estimators.percentile(
          count, whole[path], percentile
        )
      elif not seen[0][path]['wide']:  # 16 bits have steps enough for all
        result[path] = range_estimators.mse(count, whole[path])
  return _tree(result)


def equalized(
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
    model: as of `settled`.
    rules: likewise.
    variables: likewise.
    images: likewise.
    config: likewise.
  """
  data = config.data
  variables = batch_norm_folding.fold(model, variables, len(data.mean))
  if not config.quantization.calibration.equalize or rules.weights == 'tensor':
    return variables
  return equalization.equalize(
    model, variables, images, mean=data.mean, std=data.std
  )


def settled(
  model: Any,
  rules: rules_lib.Rules,
  variables: PyTree,
  images: Sequence[np.ndarray],
  config: 'ConfigDict',
) -> PyTree:
  """Returns float variables as int8 begins with them, but for ranges.

  They are `equalized`, and kernels rounded as a config's calibration says.

  Args:
    model: built with depthwise and pointwise 'conv', of normalised images.
    rules: what is quantised.
    variables: {'params', 'batch_stats'}.
    images: [H, W, C] each, values as they are, of one size.
    config: the experiment; its `data` and `quantization.calibration` count.

  Raises:
    ValueError: the method of rounding is unknown, or as `check`.
  """
  method = config.quantization.calibration.rounding
  if method not in gptq.METHODS:
    raise ValueError(
      f'config.quantization.calibration.rounding={method!r} is not one of '
      f'{gptq.METHODS}'
    )
  check(images)
  variables = equalized(model, rules, variables, images, config)
  if method == 'nearest':
    return variables
  data = config.data
  return gptq.least_squares(
    model, rules, variables, images, mean=data.mean, std=data.std
  )


def prepare(
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
    ValueError: as `calibrate`.
  """
  calibration = config.quantization.calibration
  quant_stats = calibrate(
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


def start_of(
  config: 'ConfigDict', info: dataset_info.DatasetInfo, variables: PyTree
) -> PyTree:
  """Returns float variables as training in simulated int8 begins with them.

  Args:
    config: the experiment.
    info: facts of its data set, whose training images are looked at.
    variables: {'params', 'batch_stats'}.

  Raises:
    ValueError: as `calibrate`.
  """
  q = config.quantization
  images = [
    resize.resize_bilinear(image, config.eval.static_size)
    for image in pipeline.calibration_images(config, info, q.calibration.images)
  ]
  logging.info('Calibrating int8 on %d training images', len(images))
  model = registry.build(config.model, info.num_classes, **networks.KERNELS)
  rules = rules_lib.from_config(q)
  if q.frozen_norms:
    variables = settled(model, rules, variables, images, config)
  return prepare(model, rules, variables, images, config)


def _tree(tensors: dict[tuple, range_estimators.Range]) -> PyTree:
  """Returns the collection of what is known tensor by tensor."""
  return flax.traverse_util.unflatten_dict(
    {(*path, key): v for path, x in tensors.items() for key, v in x.items()}
  )
