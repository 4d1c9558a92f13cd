"""Where the weights and the images of an export come from."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import itertools
import os
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from deeplab import networks
from deeplab import workdir as workdir_lib
from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data import image_format
from deeplab.data import pipeline
from deeplab.data import resize
from deeplab.models import registry
from deeplab.models import segmenter
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import calibration as calibrate
from export import calibration
from export import request as request_lib
from export.devices import resizes
from export.devices import targets

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Source:
  """A model and its data.

  Attributes:
    config: the experiment.
    info: facts of its data set.
    variables: {'params', 'batch_stats'}, and 'quant_stats' of a run in
      simulated int8.
    step: training steps behind the weights; None for untrained ones.
    workdir: where they were read, None for untrained ones.
  """

  config: ConfigDict
  info: dataset_info.DatasetInfo
  variables: PyTree
  step: int | None
  workdir: str | None

  @property
  def pixels(self) -> image_format.Pixels:
    """Channels and depth of the images."""
    return image_format.of(self.config.data)

  @property
  def weights(self) -> PyTree:
    """The variables of the network in float."""
    return {k: self.variables[k] for k in ('params', 'batch_stats')}

  @property
  def trained(self) -> bool:
    """Whether the weights are those of a run."""
    return self.step is not None

  def facts(self) -> dict[str, Any]:
    """Returns what cards and reports say about the weights."""
    return {
      'config': self.config.name,
      'trained': self.trained,
      'step': self.step,
      'run': self.workdir and os.path.basename(os.path.abspath(self.workdir)),
    }


def in_float32(config: ConfigDict) -> ConfigDict:
  """Returns the config with a model that computes in float32, as files do."""
  config = ConfigDict(config)
  with config.unlocked():
    config.model = ConfigDict(config.model)
    config.model.dtype = 'float32'
  return config


def from_workdir(workdir: str, which: str, data_root: str | None) -> Source:
  """Reads a run's model.

  Args:
    workdir: the run's work directory.
    which: 'best' or 'latest' checkpoint.
    data_root: where the run's data set lies now; None: where it lay then.

  Raises:
    FileNotFoundError: no run, or no checkpoint, is there.
    ValueError: the run is older than fields that configs have now.
  """
  loaded = workdir_lib.load(workdir, which)
  config = ConfigDict(loaded.config)
  if data_root:
    with config.unlocked():
      config.data.root = data_root
  variables = networks.settled(
    config, loaded.info.num_classes, loaded.variables
  )
  return Source(config, loaded.info, variables, loaded.step, workdir)


def untrained(config: ConfigDict) -> Source:
  """Initialises a model from `config.seed`; no data set is read.

  It is a float one: ranges come from images.
  """
  config = ConfigDict(config)
  with config.unlocked():
    config.quantization.name = 'none'
  info = catalog.info_for(config.data)
  model = registry.build(
    in_float32(config).model, info.num_classes, **networks.KERNELS
  )
  shape = 1, *config.eval.static_size, image_format.of(config.data).channels
  variables = jax.jit(model.init)(
    jax.random.key(config.seed), jnp.zeros(shape, jnp.float32)
  )
  return Source(config, info, variables, None, None)


def model(source: Source, **kernels: Any) -> segmenter.Segmenter:
  """Builds the network in float32; `kernels` as in `registry.build`."""
  return registry.build(
    in_float32(source.config).model, source.info.num_classes, **kernels
  )


@dataclasses.dataclass(frozen=True)
class HeadResolution:
  """A network without its last resize, for `predictors.FlaxPredictor`."""

  model: segmenter.Segmenter

  def apply(self, variables: PyTree, images: jax.Array) -> segmenter.Output:
    """Returns logits of the head's own size."""
    output: Any = self.model.apply(variables, images, full_resolution=False)
    return output


def resize_ratio(source: Source, request: request_lib.Request) -> int:
  """Returns the largest ratio of a resize in the files.

  That which the model was trained with, unless the request wants what its
  target takes, and it does not take that.

  Raises:
    ValueError: the target takes no such limit.
  """
  trained = source.config.model.resize_ratio
  if not request.target or request.resize == 'trained':
    return trained
  shape = 1, *request.input_size, source.pixels.channels
  host = request.resize == 'host'
  whole = resizes.of_network(deployed(source, 0), shape, host)
  return resizes.ratio(whole, trained, targets.get(request.target))


def deployed(source: Source, ratio: int) -> segmenter.Segmenter:
  """Builds the network that files hold: real convolutions, that `ratio`."""
  config = ConfigDict(source.config)
  with config.unlocked():
    config.model = ConfigDict(config.model)
    config.model.resize_ratio = ratio
  return model(dataclasses.replace(source, config=config), **networks.KERNELS)


def settled(
  source: Source,
  network: segmenter.Segmenter,
  images: Sequence[np.ndarray],
  rules: rules_lib.Rules,
) -> PyTree:
  """Returns the weights of integer files: BatchNorms folded, kernels rounded.

  Those of a run that was trained in simulated int8 are that already. Untrained
  kernels go to the nearest step.

  Args:
    source: the model.
    network: see `deployed`.
    images: [H, W, C] each, values as they are, of the file's size.
    rules: what is quantised.

  Raises:
    ValueError: as `calibrate.settled`.
  """
  if 'quant_stats' in source.variables:
    return source.weights
  if not source.trained:
    return batch_norm_folding.fold(
      network, source.weights, source.pixels.channels
    )
  images = [np.rint(image) for image in images]
  return calibrate.settled(
    network, rules, source.weights, images, source.config
  )


def quantized(
  source: Source,
  network: segmenter.Segmenter,
  weights: PyTree,
  images: Sequence[np.ndarray],
  rules: rules_lib.Rules,
) -> PyTree:
  """Returns variables with 'quant_stats', the run's or calibrated ones.

  Args:
    source: the model.
    network: see `deployed`.
    weights: see `settled`.
    images: [H, W, C] each, values as they are, of the file's size.
    rules: what is quantised.
  """
  if 'quant_stats' in source.variables:
    return source.variables
  images = [np.rint(image) for image in images]
  return calibrate.prepare(network, rules, weights, images, source.config)


def calibration_images(
  source: Source, size: tuple[int, int], count: int
) -> list[np.ndarray]:
  """Returns images of the training split, or drawn ones for no data set.

  They come at `size`, so that a few hundred photographs fit into memory.
  """
  if not source.trained:
    return calibration.synthetic(count, size, source.config.seed, source.pixels)
  images = pipeline.calibration_images(source.config, source.info, count)
  return [resize.resize_bilinear(image, size) for image in images]


def eval_examples(source: Source, limit: int) -> Iterator[dict[str, Any]]:
  """Yields the validation split, or its first `limit` examples."""
  examples = pipeline.eval_examples(
    source.config, source.info, host_index=0, host_count=1
  )
  return itertools.islice(examples, limit or None)


def parity_images(
  source: Source, size: tuple[int, int], count: int, real: bool
) -> list[np.ndarray]:
  """Returns the first validation images if `real`, or drawn ones."""
  if not real:
    # Others than those of the calibration.
    return calibration.synthetic(
      count, size, source.config.seed + 1, source.pixels
    )
  return [x['image'] for x in eval_examples(source, count)]
