"""Where the weights and the images of an export come from."""

from collections.abc import Iterator
import dataclasses
import itertools
import os
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from deeplab import predictors
from deeplab import workdir as workdir_lib
from deeplab.data import bands
from deeplab.data import catalog
from deeplab.data import info as info_lib
from deeplab.data import pipeline
from deeplab.models import registry
from deeplab.models import segmenter
from export import calibration

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Source:
  """A model and its data.

  Attributes:
    config: the experiment.
    info: facts of its data set.
    variables: {'params', 'batch_stats'}.
    step: training steps behind the weights; None for untrained ones.
    workdir: where they were read, None for untrained ones.
  """

  config: ConfigDict
  info: info_lib.DatasetInfo
  variables: PyTree
  step: int | None
  workdir: str | None

  @property
  def pixels(self) -> bands.Pixels:
    """Channels and depth of the images."""
    return bands.of(self.config.data)

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


def float32(config: ConfigDict) -> ConfigDict:
  """Returns `config.model` computing in float32, as the files do."""
  model = ConfigDict(config.model)
  with model.unlocked():
    model.dtype = 'float32'
  return model


def from_workdir(workdir: str, which: str, data_root: str | None) -> Source:
  """Reads a run's model.

  Args:
    workdir: the run's work directory.
    which: 'best' or 'latest' checkpoint.
    data_root: where the run's data set lies now; None: where it lay then.

  Raises:
    FileNotFoundError: no run, or no checkpoint, is there.
  """
  loaded = workdir_lib.load(workdir, which)
  config = ConfigDict(loaded.config)
  if data_root:
    with config.unlocked():
      config.data.root = data_root
  return Source(config, loaded.info, loaded.variables, loaded.step, workdir)


def untrained(config: ConfigDict) -> Source:
  """Initialises a model from `config.seed`; no data set is read."""
  info = catalog.info_for(config.data)
  model = registry.build(
    float32(config), info.num_classes, depthwise='conv', pointwise='conv'
  )
  shape = 1, *config.eval.static_size, bands.of(config.data).channels
  variables = jax.jit(model.init)(
    jax.random.key(config.seed), jnp.zeros(shape, jnp.float32)
  )
  return Source(config, info, variables, None, None)


def model(source: Source, **kernels: Any) -> segmenter.Segmenter:
  """Builds the network in float32; `kernels` as in `registry.build`."""
  return registry.build(
    float32(source.config), source.info.num_classes, **kernels
  )


def calibration_images(
  source: Source, size: tuple[int, int], count: int
) -> list[np.ndarray]:
  """Returns images of the training split, or drawn ones for no data set.

  They come at `size`, so that a few hundred photographs fit into memory.
  """
  if not source.trained:
    return calibration.synthetic(count, size, source.config.seed, source.pixels)
  images = pipeline.calibration_images(source.config, source.info, count)
  return [predictors.resize_bilinear(image, size) for image in images]


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
