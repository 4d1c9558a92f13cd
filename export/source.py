"""The source of an export: a config, its data set, and the weights of a run.

Everything that depends on the request as well (the network that files hold,
rounded kernels, activation ranges) is computed by `frozen_model.FrozenModel`.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import os
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from deeplab import networks
from deeplab import workdir as workdir_lib
from deeplab.data import datasets
from deeplab.data import image_format
from deeplab.data import resize
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
    step: number of training steps; None for untrained weights.
    workdir: work directory of the run; None for untrained weights.
  """

  config: ConfigDict
  dataset: datasets.Dataset
  variables: PyTree
  step: int | None
  workdir: str | None

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
    """True for the weights of a run, False for untrained ones."""
    return self.step is not None

  def describe(self) -> dict[str, Any]:
    """Returns the `source` entry of model cards and reports."""
    return {
      'config': self.config.name,
      'trained': self.is_trained,
      'step': self.step,
      'run': self.workdir and os.path.basename(os.path.abspath(self.workdir)),
    }


def load_from_workdir(
  workdir: str, checkpoint: str, data_root: str | None
) -> ExportSource:
  """Loads the model of a run.

  Args:
    workdir: work directory of the run.
    checkpoint: 'best' or 'latest'.
    data_root: root of the run's data set if it has moved since; else None.

  Raises:
    FileNotFoundError: there is no run or no checkpoint.
    ValueError: the run uses a config field that no longer exists.
  """
  loaded = workdir_lib.load_trained_model(workdir, checkpoint)
  config = ConfigDict(loaded.config)
  if data_root:
    with config.unlocked():
      config.data.root = data_root
  dataset = datasets.Dataset(config.data)
  network = networks.Network(config, dataset)
  variables = network.export_variables(loaded.variables)
  return ExportSource(config, dataset, variables, loaded.step, workdir)


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
  """Returns training images, or synthetic ones for an untrained model.

  They are resized to `size` at once, so that a few hundred photographs fit into
  memory.

  Args:
    source: the model.
    size: (H, W).
    count: number of images.

  Returns:
    [H, W, C] each.
  """
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


def parity_images(
  source: ExportSource, size: tuple[int, int], count: int, from_validation: bool
) -> list[np.ndarray]:
  """Returns the images on which the outputs of files are compared with JAX.

  Args:
    source: the model.
    size: (H, W) of synthetic images.
    count: number of images.
    from_validation: True for the first validation images [h, w, C] at native
      size, False for synthetic ones.
  """
  if not from_validation:
    # Not the seed of the calibration images.
    return draw_synthetic_images(
      count, size, source.config.seed + 1, source.dataset.spec
    )
  return [x['image'] for x in eval_examples(source, count)]


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
