"""The source of an export: a config, trained weights, and images.

The weights are those of a run, of a file or of a published name. Images come
from the labeled data set, where there is one, or from a plain folder.

Everything that depends on the request as well (the network that files hold,
rounded kernels, activation ranges) is computed by `frozen_model.FrozenModel`.
"""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from deeplab import evaluate
from deeplab import networks
from deeplab import workdir as workdir_lib
from deeplab.data import datasets
from deeplab.data import image_folder
from deeplab.data import image_format
from deeplab.data import resize
from deeplab.pretrained import identify
from deeplab.training import limits

PyTree = Any

_BLOB_CELLS = (8, 8)  # synthetic images: rows and columns of their blobs


@dataclasses.dataclass(frozen=True)
class ExportSource:
  """A model and its data.

  Attributes:
    config: the experiment.
    dataset: its data set.
    variables: {'params', 'batch_stats'}, and 'quant_stats' for a run that was
      trained in simulated int8.
    step: number of training steps; None for weights that no run has trained.
    weights: the run, file or name of the weights, as the user gave it; None for
      untrained weights.
    has_labels: True if the labeled images of the data set are here.
    calibration_folder: folder of images that ranges are calibrated on; '' for
      the training images, or synthetic ones for untrained weights.
  """

  config: ConfigDict
  dataset: datasets.Dataset
  variables: PyTree
  step: int | None
  weights: str | None
  has_labels: bool = False
  calibration_folder: str = ''

  @functools.cached_property
  def network(self) -> networks.Network:
    """The network, in float32 as in files."""
    config = ConfigDict(self.config)
    with config.unlocked():
      config.model = ConfigDict(config.model)
      config.model.dtype = 'float32'
    return networks.Network(config, self.dataset)

  @property
  def float_variables(self) -> PyTree:
    """The variables without activation ranges."""
    return {k: self.variables[k] for k in ('params', 'batch_stats')}

  @property
  def is_trained(self) -> bool:
    """True for trained weights, False for those of an initialization."""
    return self.weights is not None

  @property
  def has_calibration_images(self) -> bool:
    """True if there are images to calibrate on, if only synthetic ones."""
    return bool(self.calibration_folder) or (
      self.has_labels or not self.is_trained
    )

  @functools.cached_property
  def calibration_paths(self) -> list[pathlib.Path]:
    """The files of `calibration_folder`.

    Raises:
      ValueError: there is no such folder, or it holds no image.
    """
    return image_folder.list_images(
      self.calibration_folder, '--calibration_images'
    )

  def describe(self) -> dict[str, Any]:
    """Returns the `source` entry of model cards and reports."""
    return {
      'config': self.config.name,
      'trained': self.is_trained,
      'step': self.step,
      'run': self.weights and os.path.basename(os.path.abspath(self.weights)),
    }


def load_trained(
  weights: str,
  checkpoint: str = 'best',
  *,
  config: ConfigDict | None = None,
  overrides: Collection[str] = (),
  data_root: str = '',
  calibration_folder: str = '',
  has_labels: bool | None = None,
) -> ExportSource:
  """Loads a trained model, wherever it comes from.

  Args:
    weights: a run, a saved model, a file of weights, a published name or
      'hf:USER/MODEL'.
    checkpoint: 'best' or 'latest', of a run.
    config: the data set, and the network where the weights do not tell; None
      for the model's own.
    overrides: names of fields of `config` that the user has set.
    data_root: root of the model's data set, if it has moved; '' if not.
    calibration_folder: folder of images that ranges are calibrated on; '' for
      the training images of the data set.
    has_labels: True if the data set is here; None for True with a run or a
      `data_root`.

  Raises:
    ValueError: `identify.load_model_for_data` raises, or the data set has
      another number of classes than the model.
    OSError: there is no run, no checkpoint, or the weights cannot be read.
  """
  if has_labels is None:
    has_labels = bool(data_root) or identify.is_run(weights)
  model = identify.load_model_for_data(weights, checkpoint, config)
  if config is not None:
    model = evaluate.with_data_of(model, config, overrides)
  return source_of(
    model,
    weights,
    data_root=data_root,
    calibration_folder=calibration_folder,
    has_labels=has_labels,
  )


def source_of(
  model: workdir_lib.TrainedModel,
  weights: str,
  *,
  data_root: str = '',
  calibration_folder: str = '',
  has_labels: bool = False,
) -> ExportSource:
  """Returns the source of a model that is loaded.

  Args:
    model: the model.
    weights: where it comes from.
    data_root: as for `load_trained`.
    calibration_folder: as for `load_trained`.
    has_labels: True if the labeled images of its data set are here.
  """
  config = ConfigDict(model.config)
  if data_root:
    with config.unlocked():
      config.data.root = data_root
  dataset = datasets.Dataset(config.data)
  network = networks.Network(config, dataset)
  return ExportSource(
    config,
    dataset,
    network.export_variables(model.variables),
    model.step,
    weights,
    has_labels,
    calibration_folder,
  )


def init_untrained(config: ConfigDict) -> ExportSource:
  """Initializes a float model from `config.seed`; no data set is read.

  It is a float model even if the config trains in simulated int8: activation
  ranges come from images.

  Raises:
    ValueError: the seed is negative or too large.
  """
  limits.check_seed(config.seed)
  config = ConfigDict(config)
  with config.unlocked():
    config.quantization.name = 'none'
  dataset = datasets.Dataset(config.data)
  model = networks.Network(config, dataset).export_model()
  shape = (1, *config.eval.static_size, dataset.spec.channels)
  variables = jax.jit(model.init)(
    jax.random.key(config.seed), jnp.zeros(shape, jnp.float32)
  )
  return ExportSource(config, dataset, variables, None, None)


def calibration_images(
  source: ExportSource, size: tuple[int, int], count: int
) -> list[np.ndarray]:
  """Returns the images that activation ranges are calibrated on.

  They are those of the source's folder, training images, or synthetic ones for
  an untrained model. They are resized to `size` at once, so that a few hundred
  photographs fit into memory.

  Args:
    source: the model.
    size: (H, W).
    count: number of images.

  Returns:
    [H, W, C] each.

  Raises:
    ValueError: a file of the folder cannot be read.
  """
  if source.calibration_folder:
    return _read_folder_images(source, size, count)
  if not source.is_trained:
    return draw_synthetic_images(
      count, size, source.config.seed, source.dataset.spec
    )
  images = source.dataset.calibration_images(count, source.config.seed)
  return [resize.resize_bilinear(image, size) for image in images]


def eval_examples(source: ExportSource, limit: int) -> Iterator[dict[str, Any]]:
  """Yields examples of the validation split, the first `limit` or, for 0, all.

  Args:
    source: the model.
    limit: number of examples, 0 for all.
  """
  examples = source.dataset.examples(source.config.data.eval_split)
  return itertools.islice(examples, limit or None)


def _read_folder_images(
  source: ExportSource, size: tuple[int, int], count: int
) -> list[np.ndarray]:
  """Returns up to `count` images of the source's folder, evenly spread."""
  paths = image_folder.spread_evenly(source.calibration_paths, count)
  return [
    resize.resize_bilinear(
      image_folder.read_image(path, source.dataset.spec), size
    )
    for path in paths
  ]


def parity_images(
  source: ExportSource, size: tuple[int, int], count: int, origin: str
) -> list[np.ndarray]:
  """Returns the images on which the outputs of files are compared with JAX.

  Args:
    source: the model.
    size: (H, W) of images that are not of the validation split.
    count: number of images.
    origin: 'validation' for the first validation images [h, w, C] at native
      size, 'calibration' for some of the source's folder, or 'synthetic'.
  """
  if origin == 'validation':
    return [x['image'] for x in eval_examples(source, count)]
  if origin == 'calibration':
    return _read_folder_images(source, size, count)
  # Not the seed of the calibration images.
  return draw_synthetic_images(
    count, size, source.config.seed + 1, source.dataset.spec
  )


def draw_synthetic_images(
  count: int,
  size: Sequence[int],
  seed: int,
  image_spec: image_format.ImageSpec = image_format.RGB,
) -> list[np.ndarray]:
  """Draws images that need no data set: coarse blobs under fine noise.

  They exercise every operator, but are no measure of activation ranges or
  accuracy on photographs.

  Args:
    count: number of images.
    size: (H, W).
    seed: seed of the generator; equal arguments give equal images.
    image_spec: channels and bits per channel.

  Returns:
    [H, W, C] each, uint8 or uint16 by the image spec.
  """
  rng = np.random.default_rng(seed)
  images = []
  for _ in range(count):
    blobs = rng.uniform(
      0, image_spec.max_value, (*_BLOB_CELLS, image_spec.channels)
    )
    image = resize.resize_bilinear(blobs, size)
    noise = rng.normal(0, image_spec.max_value * 16 / 255, image.shape)
    image += noise.astype(np.float32)
    image = np.clip(np.rint(image), 0, image_spec.max_value)
    images.append(image.astype(image_spec.dtype))
  return images
