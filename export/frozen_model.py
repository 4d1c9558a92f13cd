"""The model as the files of one export hold it.

Source and request meet here, and nowhere else: converters and checks read the
network, its weights, its ranges and its images from one `FrozenModel`. Each of
them is computed when it is first asked for, so that an export of float files
needs no calibration images and no folded BatchNorms.
"""

from collections.abc import Sequence
import functools
import os
from typing import Any

import numpy as np

from deeplab.models import profile
from deeplab.models import segmenter
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import calibration
from export import request as request_lib
from export import source as source_lib
from export.devices import resizes
from export.devices import targets

PyTree = Any


def choose_resize_ratio(
  source: source_lib.ExportSource, request: request_lib.Request
) -> int:
  """Returns the largest ratio of one resize in the files.

  It is the ratio that the model was trained with, unless the target cannot run
  that and the request allows another one.

  Raises:
    ValueError: the target cannot run the resizes at any ratio.
  """
  trained = source.config.model.resize_ratio
  if not request.target or request.resize == 'trained':
    return trained
  network_resizes = resizes.find_network_resizes(
    source.network.export_model(0),
    (1, *request.input_size, source.dataset.spec.channels),
    request.resize == 'host',
  )
  return resizes.choose_ratio(
    network_resizes, trained, targets.get_target(request.target)
  )


class FrozenModel:
  """One source, prepared for the files of one request.

  Attributes:
    source: weights and data.
    request: the files to export.
    images: float32 [H, W, C] each, pixel values at the files' size, on which
      files are compared with JAX.
    mean: mean per channel, in pixel values.
    std: standard deviation per channel, in pixel values.
    max_value: the largest pixel value.
    input_shape: (H, W, C) of the files.
  """

  def __init__(
    self,
    source: source_lib.ExportSource,
    request: request_lib.Request,
    *,
    num_calibration_images: int = 0,
    images: Sequence[np.ndarray] = (),
    scratch: str = '',
  ):
    """Stores the arguments; variables are prepared when first used.

    Args:
      source: weights and data.
      request: the files to export.
      num_calibration_images: number of images that integer formats calibrate
        on.
      images: calibration images.
      scratch: folder for intermediate files.
    """
    self.source = source
    self.request = request
    self.images = images
    self.mean = tuple(float(x) for x in source.config.data.mean)
    self.std = tuple(float(x) for x in source.config.data.std)
    self.max_value = source.dataset.spec.max_value
    self.input_shape = (*request.input_size, source.dataset.spec.channels)
    self._num_calibration_images = num_calibration_images
    self._scratch = scratch

  @functools.cached_property
  def resize_ratio(self) -> int:
    """The largest ratio of one resize in the files."""
    return choose_resize_ratio(self.source, self.request)

  @functools.cached_property
  def network(self) -> segmenter.Segmenter:
    """The network that the files hold, before quantization."""
    return self.source.network.export_model(self.resize_ratio)

  @functools.cached_property
  def cost(self) -> profile.ModelProfile:
    """Multiply-accumulates and parameters of the network."""
    *size, channels = self.input_shape
    return profile.count_macs_and_params(
      self.network,
      self.source.dataset.info.num_classes,
      size,
      channels=channels,
    )

  @functools.cached_property
  def calibration_images(self) -> list[np.ndarray]:
    """Images [H, W, C] at the files' size that ranges are calibrated on.

    Empty where no format needs them, so that a run's data set may be elsewhere.

    Raises:
      ValueError: too few images, or images of one color each.
    """
    if not self._num_calibration_images:
      return []
    images = source_lib.calibration_images(
      self.source, self.request.input_size, self._num_calibration_images
    )
    calibration.check_images(images)
    return images

  def prepare_integer_weights(self) -> None:
    """Calibrates and rounds kernels now, in no format's conversion time.

    Raises:
      ValueError: the calibration images or the rules do not fit the network.
    """
    _ = self.integer_weights

  @functools.cached_property
  def integer_weights(self) -> PyTree:
    """Variables of integer files: BatchNorms folded, kernels rounded.

    A run that was trained in simulated int8 has them already. Kernels of an
    untrained model are rounded to the nearest integer.

    Raises:
      ValueError: the calibration images or the rules do not fit the network.
    """
    source = self.source
    if not source.is_trained:
      return batch_norm_folding.fold_batch_norms(
        self.network, source.float_variables, source.dataset.spec.channels
      )
    return source.network.quantize_weights(
      self.network,
      self.request.rules,
      source.float_variables,
      self._integer_images(),
    )

  @functools.cached_property
  def simulation_variables(self) -> PyTree:
    """`integer_weights` and 'quant_stats', trained or calibrated ranges."""
    return self.source.network.add_activation_ranges(
      self.network,
      self.request.rules,
      self.source.variables,
      self.integer_weights,
      self._integer_images(),
    )

  def _integer_images(self) -> list[np.ndarray]:
    return [np.rint(image) for image in self.calibration_images]

  # TensorFlow, which takes seconds to import, is loaded for files alone.

  def _make_serving_function(self, weights: PyTree) -> Any:
    from export.convert import saved_model

    return saved_model.make_serving_function(
      self.network, weights, self.request, self.mean, self.std
    )

  def _write_saved_model(self, name: str, serving_function: Any) -> str:
    from export.convert import saved_model

    path = os.path.join(self._scratch, name)
    saved_model.write_saved_model(serving_function, self.input_shape, path)
    return path

  @functools.cached_property
  def serving_function(self) -> Any:
    """The function [1, H, W, C] -> output that float files compute."""
    return self._make_serving_function(self.source.float_variables)

  @functools.cached_property
  def saved_model(self) -> str:
    """Path of the SavedModel of the float weights."""
    return self._write_saved_model('saved_model', self.serving_function)

  @functools.cached_property
  def integer_saved_model(self) -> str:
    """Path of the SavedModel that TensorFlow quantizes: `integer_weights`."""
    return self._write_saved_model(
      'integer_saved_model', self._make_serving_function(self.integer_weights)
    )
