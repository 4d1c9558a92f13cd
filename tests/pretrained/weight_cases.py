"""Helpers for the tests against other frameworks: files and the importer."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from deeplab.pretrained import merge
from deeplab.pretrained.readers import dispatch
from deeplab.pretrained.systems import detect
from tests import torchvision_module
from tests.models.encoders import encoder_cases

images = encoder_cases.images


def randomise(path, shape, generator):
  """Returns values that keep the size of activations.

  Args:
    path: name of a variable, in any system.
    shape: its shape.
    generator: NumPy's.
  """
  if len(shape) < 2:
    positive = path.endswith(('running_var', 'moving_variance', 'gamma'))
    if positive or ('bias' not in path and path.endswith('weight')):
      return generator.uniform(0.5, 1.5, shape)
    return 0.2 * generator.standard_normal(shape)
  # torch's kernels are [out, in, h, w], Keras' [h, w, in, out].
  torch = path.endswith('weight')
  fan_in = np.prod(shape[1:] if torch else shape[:-1])
  if not torch and shape[-1] == 1:
    fan_in = shape[0] * shape[1]  # depthwise
  return fan_in**-0.5 * generator.standard_normal(shape)


def torch_state(model, seed=0):
  """Gives a torch model random variables, statistics included."""
  torch = torchvision_module.load()[0]
  generator = np.random.default_rng(seed)
  state = {
    name: torch.from_numpy(
      randomise(name, tuple(value.shape), generator).astype(np.float32)
    )
    for name, value in model.state_dict().items()
    if value.is_floating_point()
  }
  model.load_state_dict(state, strict=False)
  return model.eval()


def keras_state(model, seed=0):
  """Gives a Keras model random variables, statistics included."""
  generator = np.random.default_rng(seed)
  for weight in model.weights:
    shape = tuple(weight.shape)
    weight.assign(randomise(weight.name, shape, generator))
  return model


def imported(path, system, model, variables):
  """Returns the variables with a file's tensors merged in.

  Args:
    path: the file.
    system: the one that it must be found to be of.
    model: a `Segmenter`, or anything with its fields.
    variables: its variables.
  """
  found, match = detect.detect_system(
    dispatch.read_tensors(path), model, variables
  )
  assert found == system
  return merge.merge_tensors(
    variables, match.tensors, match.tensor_refs, unused=match.unused
  )


def import_encoder(path, system, encoder):
  """Returns an encoder's variables from a file."""
  shapes = jax.eval_shape(
    lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 33, 33, 3)), False)
  )
  # A variable without a tensor would make the features NaN.
  start = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), shapes)
  start = {name: {'encoder': tree} for name, tree in start.items()}
  model = types.SimpleNamespace(encoder=encoder, head=None, auxiliary=None)
  variables = imported(path, system, model, start)
  return {name: tree['encoder'] for name, tree in variables.items()}


def torch_maps(layers, x, taps):
  """Returns the outputs of some layers of a sequence, channels last."""
  torch = torchvision_module.load()[0]
  maps, x = [], torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    for i, layer in enumerate(layers):
      x = layer(x)
      if i in taps:
        maps.append(x.numpy().transpose(0, 2, 3, 1))
  return maps


def assert_features(path, system, encoder, x, theirs):
  """Asserts equal maps, to 1e-4 of each map's largest value."""
  variables = import_encoder(path, system, encoder)
  ours = encoder_cases.features(encoder, variables, x)
  errors = [
    float(np.abs(a - b).max() / np.abs(b).max())
    for a, b in zip(ours, theirs, strict=True)
  ]
  print(f'{path.rpartition("/")[2]} {x.shape[1:3]}: {max(errors):.1e}')
  encoder_cases.assert_equal(ours, theirs, 1e-4)
