"""Helpers for the tests against other frameworks: files and the importer."""

import hashlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab import networks
from deeplab.files import config_pages
from deeplab.models import registry
from deeplab.pretrained import identify
from deeplab.pretrained import merge
from deeplab.pretrained.readers import dispatch
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.systems import detect
from tests import torchvision_module
from tests.models.encoders import encoder_cases

images = encoder_cases.images

# From our axes to those of a file, by the layout of a reference.
_INVERSE = {
  'same': lambda x: x,
  'oihw': lambda x: x.transpose(3, 2, 0, 1),
  'hwim': lambda x: x.transpose(0, 1, 3, 2),
  'ohwi': lambda x: x.transpose(3, 0, 1, 2),
  '1hwo': lambda x: x.transpose(2, 0, 1, 3),
  'io': lambda x: x[0, 0],
}


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


def _file_name(system, name, plain_stem):
  """Returns the name in a whole network's file, which has prefixes."""
  heads = (
    *('classifier.', 'aux_classifier.', 'decode_head.', 'auxiliary_head.'),
    *('decoder.', 'segmentation_head.', 'aspp.', 'seg_heads.', 'ppseg_head.'),
  )
  prefix = {'smp': 'encoder.'}.get(system, 'backbone.')
  prefixed = system in (
    *('torchvision', 'mmseg', 'smp', 'vainf', 'jfzhang', 'paddleseg'),
  )
  if system == 'torchvision' and name.startswith('features.'):
    return name.replace('features.', 'backbone.')
  if system == 'vainf' and name.startswith('features.'):
    level = 'low' if int(name.split('.')[1]) < 4 else 'high'
    name = f'{level}_level_{name}'
  if prefixed and not name.startswith(heads):
    name = f'{prefix}{name}'
  if plain_stem and system == 'mmseg':
    name = name.replace('stem.0.', 'conv1.').replace('stem.1.', 'bn1.')
  return name


def write_network(path, system, page, num_classes, **fields):
  """Writes a file of a network, with random weights, as its system names them.

  Args:
    path: the .safetensors file.
    system: key of `detect.SYSTEMS`.
    page: config page of the network.
    num_classes: number of classes.
    **fields: other fields of config.model, 'encoder__alpha'.

  Returns:
    Our variables.
  """
  model_config = config_pages.load_page(page).unlock().model
  for name, value in fields.items():
    model_config.update_from_flattened_dict({name.replace('__', '.'): value})
  registry.fill_defaults(model_config)
  model = registry.build_model(model_config, num_classes)
  rng = np.random.default_rng(0)
  abstract = identify._abstract_variables(model, 3)
  tensors = {f'{detect.SYSTEMS[system].segmenter_prefix}x': np.zeros(1)}
  match = detect.match_system(detect.SYSTEMS[system], tensors, model, abstract)
  tensors, values = {}, {}
  plain_stem = model_config.encoder.get('stem') == 'v1'
  for leaf, ref in match.tensor_refs.items():
    shape = merge.flatten_variables(abstract)[leaf].shape
    values[leaf] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    value = values[leaf]
    if ref.roll:
      value = np.roll(value, -ref.roll, axis=2 if value.shape[2] > 1 else 3)
    tensors[_file_name(system, ref.name, plain_stem)] = _INVERSE[ref.layout](
      value
    )
  safetensors.write_safetensors(str(path), tensors, {})
  return values


def mark_full(names, quick):
  """Returns parameters of a test, all but `quick` ones marked as full."""
  return [
    name if name in quick else pytest.param(name, marks=pytest.mark.full)
    for name in names
  ]


def names_digest(tensors):
  """Returns the count of tensors and a digest of their names and shapes.

  Args:
    tensors: arrays by name; step counters of BatchNorm do not count.
  """
  lines = sorted(
    f'{name} {tuple(tensor.shape)}'
    for name, tensor in tensors.items()
    if not name.endswith('num_batches_tracked')
  )
  digest = hashlib.sha256('\n'.join(lines).encode()).hexdigest()
  return len(lines), digest[:16]


def assert_network_is_found(tmp_path, system, page, known, num_classes, fields):
  """Asserts that names and shapes are the original's, and find the network.

  Args:
    tmp_path: folder for the file.
    system: key of `detect.SYSTEMS`.
    page: config page of the network.
    known: `names_digest` of the original's tensors.
    num_classes: number of classes.
    fields: fields of config.model that the page lacks, 'encoder__name'.
  """
  path = str(tmp_path / 'weights.safetensors')
  values = write_network(path, system, page, num_classes, **fields)
  assert names_digest(safetensors.read_safetensors(path)) == known
  found = identify.load_model(path)
  wanted = config_pages.load_page(page).unlock().model
  for name, value in fields.items():
    wanted.update_from_flattened_dict({name.replace('__', '.'): value})
  for slot in ('encoder', 'head', 'auxiliary'):
    for name, value in wanted[slot].items():
      assert found.config.model[slot][name] == value, (slot, name)
  assert found.config.model.output_stride == wanted.output_stride
  assert found.config.model.multi_grid == wanted.multi_grid
  assert found.dataset.info.num_classes == num_classes
  loaded = merge.flatten_variables(found.variables)
  assert loaded.keys() == values.keys()
  for leaf, value in values.items():
    np.testing.assert_array_equal(loaded[leaf], value, leaf)


def assert_logits(path, forward, sizes):
  """Asserts that a file without a config gives the original's logits.

  Args:
    path: the file.
    forward: function from normalized images [1, 3, H, W], a torch tensor or an
      array as it needs, to logits [1, K, H, W].
    sizes: (H, W) of the images.
  """
  found = identify.load_model(path)
  model = networks.Network(found.config, found.dataset).export_model()
  apply = jax.jit(lambda v, x: model.apply(v, x).logits)
  for size in sizes:
    x = images(*size, seed=1)
    expected = forward(x.transpose(0, 3, 1, 2).copy()).transpose(0, 2, 3, 1)
    actual = apply(found.variables, x)
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    print(f'{path.rpartition("/")[2]} {size}: {error:.1e}')
    assert expected.std() > 1e-2
    assert error < 1e-4


def torch_forward(module):
  """Returns a function on arrays that runs a torch module."""
  torch = torchvision_module.load()[0]

  def forward(x):
    with torch.no_grad():
      return module(torch.from_numpy(x)).numpy()

  return forward
