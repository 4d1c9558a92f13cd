"""Exports a Flax network as a TensorFlow SavedModel.

The network, its weights and the normalization become one function of an image;
`jax2tf` writes it as StableHLO.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.experimental import jax2tf
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from deeplab import system
from deeplab.data import image_format
from export import request as request_lib

Array = jax.Array
PyTree = Any
ServingFunction = Callable[[Array], Array]


def make_serving_function(
  model: Any,
  variables: PyTree,
  request: request_lib.Request,
  mean: Sequence[float],
  std: Sequence[float],
) -> ServingFunction:
  """Makes the function of an image that the exported files compute.

  Args:
    model: built with depthwise and pointwise 'conv', computing in float32.
    variables: {'params', 'batch_stats'}; constants of the function.
    request: the export.
    mean: mean per channel, in pixel values.
    std: standard deviation per channel, in pixel values.

  Returns:
    [1, H, W, C] float32 -> [1, H, W, K] float32, or class ids [1, H, W] in
    `request.output_type`. H and W of the output are those of the head if the
    request leaves the last resize to the host.
  """
  variables = jax.tree.map(np.asarray, variables)
  options = {'full_resolution': False} if request.resize == 'host' else {}

  def compute(image: Array) -> Array:
    if request.normalization_in_graph:
      image = image_format.normalize_image(image, mean, std)
    logits = model.apply(variables, image, **options).logits
    if request.output == 'softmax':
      return jax.nn.softmax(logits, axis=-1)
    if request.output == 'argmax':
      ids = jnp.argmax(logits, axis=-1).astype(jnp.int32)
      return ids.astype(jnp.dtype(request.output_type))
    return logits

  return compute


def write_saved_model(
  compute: ServingFunction, shape: Sequence[int], path: str
) -> None:
  """Writes a SavedModel with the signature 'serving_default', for CPUs.

  The signature maps `image` [1, H, W, C] float32 to `output`.

  Args:
    compute: function of `make_serving_function`.
    shape: (H, W, C).
    path: folder to write.
  """
  system.hide_accelerators(tf)
  converted = jax2tf.convert(
    compute, with_gradient=False, native_serialization_platforms=('cpu',)
  )
  serve = tf.function(
    lambda image: {'output': converted(image)},
    autograph=False,
    input_signature=[tf.TensorSpec((1, *shape), tf.float32, name='image')],
  )
  with system.capture_stderr():
    # An attribute of the module would store the function a second time.
    tf.saved_model.save(
      tf.Module(),
      path,
      signatures={'serving_default': serve.get_concrete_function()},
    )


def _walk_operations(block):
  """Yields the operations of an MLIR block, those of inner regions included."""
  for operation in block.operations:
    yield operation.operation
    for region in operation.operation.regions:
      for inner in region.blocks:
        yield from _walk_operations(inner)


def summarize_stablehlo(
  compute: ServingFunction, shape: Sequence[int]
) -> dict[str, Any]:
  """Counts the StableHLO operations of the function in the SavedModel.

  A composite counts as one operation with its own name; the operations of its
  decomposition do not count.

  Args:
    compute: function of `make_serving_function`.
    shape: (H, W, C).

  Returns:
    `operators` (name -> count), `operator_dtypes` (name -> dtype -> count) and
    `weight_bytes`, the bytes of all constants.
  """
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  module: Any = jax.jit(compute).lower(image).compiler_ir('stablehlo')
  functions = {
    str(f.operation.attributes['sym_name']).strip('"'): f
    for f in module.body.operations
  }
  decompositions = {
    str(op.attributes['decomposition']).lstrip('@').strip('"')
    for op in _walk_operations(module.body)
    if op.name == 'stablehlo.composite'
  }
  dtypes: dict[str, dict[str, int]] = {}
  weight_bytes = 0
  for name, f in functions.items():
    if name in decompositions:
      continue
    for op in _walk_operations(f.operation.regions[0].blocks[0]):
      if not op.name.startswith('stablehlo.') or not len(op.results):
        continue
      kind, result = op.name, op.results[0].type
      if kind == 'stablehlo.composite':
        kind = str(op.attributes['name']).strip('"')
      dtype = str(result.element_type)
      if kind == 'stablehlo.constant':
        bits = int(''.join(filter(str.isdigit, dtype)) or 8)
        weight_bytes += math.prod(result.shape) * bits // 8
        continue
      counts = dtypes.setdefault(kind, {})
      counts[dtype] = counts.get(dtype, 0) + 1
  totals = {name: sum(counts.values()) for name, counts in dtypes.items()}
  order = sorted(totals, key=lambda name: (-totals[name], name))
  return {
    'operators': {name: totals[name] for name in order},
    'operator_dtypes': {name: dtypes[name] for name in order},
    'weight_bytes': weight_bytes,
  }


class SavedModelPredictor:
  """A SavedModel as a `predictors.Predictor`, for one image at a time."""

  batch_size = 1

  def __init__(
    self,
    path: str,
    request: request_lib.Request,
    mean: Sequence[float],
    std: Sequence[float],
  ):
    """Loads a SavedModel.

    Args:
      path: folder of the SavedModel.
      request: the export that wrote it.
      mean: mean per channel, in pixel values.
      std: standard deviation per channel, in pixel values.
    """
    with system.path_without_patterns(path) as folder:
      self._serve = tf.saved_model.load(folder).signatures['serving_default']
    self._request = request
    self._std = np.asarray(std, np.float32)
    self.mean = tuple(float(x) for x in mean)
    self.input_size = request.input_size
    self.output = request.output

  def with_output(self, output: str) -> 'SavedModelPredictor':
    """Returns itself.

    Raises:
      ValueError: another output than the SavedModel was exported with.
    """
    if output != self.output:
      raise ValueError(f'the SavedModel gives {self.output}, not {output}')
    return self

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] pixel values to `output` for each image."""
    images = np.asarray(images, np.float32)
    if not self._request.normalization_in_graph:
      mean = np.asarray(self.mean, np.float32)
      images = image_format.normalize_image(images, mean, self._std)
    outputs = [self._serve(image=tf.constant(x[None])) for x in images]
    result = np.concatenate([o['output'].numpy() for o in outputs])
    return result.astype(np.uint8 if self.output == 'argmax' else np.float32)
