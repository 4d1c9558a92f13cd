"""Random weights under which no channel is dead or saturated."""

import dataclasses

import jax
import numpy as np
from PIL import Image

from deeplab.data import datasets
from export import source as source_lib


def draw(model, size, seed=0):
  """Returns variables of a model for images of `size`; nothing is compiled."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), 'f4')
  )

  def value(path, x):
    if path[-1].key in ('scale', 'var'):
      return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
    fan_in = np.prod(x.shape[:-1]) if len(x.shape) > 1 else 25
    return rng.normal(0, (2 / fan_in) ** 0.5, x.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(value, shapes)


def write_photograph(path, seed=0, size=(40, 50)):
  """Writes a small image of many colors, as a calibration accepts."""
  (pixels,) = source_lib.draw_synthetic_images(1, size, seed)
  Image.fromarray(pixels).save(path)


def make_source(config, step=None, weights=None, folder=''):
  """Returns a source of such weights, drawn at `config.eval.static_size`.

  With a step and weights it is a run, whose data set is here; with weights and
  no step, a file of another framework, for which there is no data set.
  """
  source = source_lib.ExportSource(
    config,
    datasets.Dataset(config.data),
    None,
    step,
    weights,
    has_labels=step is not None,
    calibration_folder=str(folder),
  )
  variables = draw(source.network.export_model(), config.eval.static_size)
  return dataclasses.replace(source, variables=variables)
