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
from deeplab.data import datasets
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
class ExportSource:
  """A model and its data.

  Attributes:
    config: the experiment.
    dataset: its data set.
    variables: {'params', 'batch_stats'}, and 'quant_stats' of a run in
      simulated int8.
    step: training steps behind the weights; None for untrained ones.
    workdir: where they were read, None for untrained ones.
  """

  config: ConfigDict
  dataset: datasets.Dataset
  variables: PyTree
  step: int | None
  workdir: str | None

  @property
  def network(self) -> networks.Network:
    """The network, in float32 as in files."""
    return networks.Network(float32_config(self.config), self.dataset)

  @property
  def float_variables(self) -> PyTree:
    """The variables of the network in float."""
    return {k: self.variables[k] for k in ('params', 'batch_stats')}

  @property
  def is_trained(self) -> bool:
    """Whether the weights are those of a run."""
    return self.step is not None

  def describe(self) -> dict[str, Any]:
    """Returns what cards and reports say about the weights."""
    return {
      'config': self.config.name,
      'trained': self.is_trained,
      'step': self.step,
      'run': self.workdir and os.path.basename(os.path.abspath(self.workdir)),
    }


def float32_config(config: ConfigDict) -> ConfigDict:
  """Returns the config with a model that computes in float32, as files do."""
  config = ConfigDict(config)
  with config.unlocked():
    config.model = ConfigDict(config.model)
    config.model.dtype = 'float32'
  return config


def load_from_workdir(
  workdir: str, checkpoint: str, data_root: str | None
) -> ExportSource:
  """Reads a run's model.

  Args:
    workdir: the run's work directory.
    checkpoint: 'best' or 'latest' checkpoint.
    data_root: where the run's data set lies now; None: where it lay then.

  Raises:
    FileNotFoundError: no run, or no checkpoint, is there.
    ValueError: the run is older than fields that configs have now.
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
  """Initialises a model from `config.seed`; no data set is read.

  It is a float one: ranges come from images.
  """
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


def build_model(source: ExportSource, **kernels: Any) -> segmenter.Segmenter:
  """Builds the network in float32; `kernels` as in `registry.build_model`."""
  return registry.build_model(
    float32_config(source.config).model,
    source.dataset.info.num_classes,
    **kernels,
  )


@dataclasses.dataclass(frozen=True)
class WithoutLastResize:
  """A network without its last resize, for `predictors.FlaxPredictor`."""

  model: segmenter.Segmenter

  def apply(
    self, variables: PyTree, images: jax.Array
  ) -> segmenter.SegmenterOutput:
    """Returns logits of the head's own size."""
    output: Any = self.model.apply(variables, images, full_resolution=False)
    return output


def resize_ratio(source: ExportSource, request: request_lib.Request) -> int:
  """Returns the largest ratio of a resize in the files.

  That which the model was trained with, unless the request wants what its
  target takes, and it does not take that.

  Raises:
    ValueError: the target takes no such limit.
  """
  trained = source.config.model.resize_ratio
  if not request.target or request.resize == 'trained':
    return trained
  shape = 1, *request.input_size, source.dataset.spec.channels
  host = request.resize == 'host'
  whole = resizes.find_network_resizes(
    build_export_model(source, 0), shape, host
  )
  return resizes.choose_ratio(
    whole, trained, targets.get_target(request.target)
  )


def build_export_model(
  source: ExportSource, max_resize_ratio: int
) -> segmenter.Segmenter:
  """Builds the network that files hold: real convolutions, limited resizes."""
  return source.network.export_model(max_resize_ratio)


def prepare_int8_weights(
  source: ExportSource,
  network: segmenter.Segmenter,
  images: Sequence[np.ndarray],
  rules: rules_lib.Rules,
) -> PyTree:
  """Returns the weights of integer files: BatchNorms folded, kernels rounded.

  Those of a run that was trained in simulated int8 are that already. Untrained
  kernels go to the nearest step.

  Args:
    source: the model.
    network: see `build_export_model`.
    images: [H, W, C] each, values as they are, of the file's size.
    rules: what is quantised.

  Raises:
    ValueError: as `calibrate.settled`.
  """
  if 'quant_stats' in source.variables:
    return source.float_variables
  if not source.is_trained:
    return batch_norm_folding.fold_batch_norms(
      network, source.float_variables, source.dataset.spec.channels
    )
  images = [np.rint(image) for image in images]
  return calibrate.prepare_int8_weights(
    network, rules, source.float_variables, images, source.config
  )


def prepare_int8_variables(
  source: ExportSource,
  network: segmenter.Segmenter,
  weights: PyTree,
  images: Sequence[np.ndarray],
  rules: rules_lib.Rules,
) -> PyTree:
  """Returns variables with 'quant_stats', the run's or calibrated ones.

  Args:
    source: the model.
    network: see `build_export_model`.
    weights: see `prepare_int8_weights`.
    images: [H, W, C] each, values as they are, of the file's size.
    rules: what is quantised.
  """
  if 'quant_stats' in source.variables:
    return source.variables
  images = [np.rint(image) for image in images]
  return calibrate.add_activation_ranges(
    network, rules, weights, images, source.config
  )


def calibration_images(
  source: ExportSource, size: tuple[int, int], count: int
) -> list[np.ndarray]:
  """Returns images of the training split, or drawn ones for no data set.

  They come at `size`, so that a few hundred photographs fit into memory.
  """
  if not source.is_trained:
    return calibration.draw_synthetic_images(
      count, size, source.config.seed, source.dataset.spec
    )
  images = source.dataset.calibration_images(count, source.config.seed)
  return [resize.resize_bilinear(image, size) for image in images]


def eval_examples(source: ExportSource, limit: int) -> Iterator[dict[str, Any]]:
  """Yields the validation split, or its first `limit` examples."""
  examples = source.dataset.examples(source.config.data.eval_split)
  return itertools.islice(examples, limit or None)


def parity_images(
  source: ExportSource, size: tuple[int, int], count: int, from_validation: bool
) -> list[np.ndarray]:
  """Returns the first validation images if `from_validation`, or drawn ones."""
  if not from_validation:
    # Others than those of the calibration.
    return calibration.draw_synthetic_images(
      count, size, source.config.seed + 1, source.dataset.spec
    )
  return [x['image'] for x in eval_examples(source, count)]
