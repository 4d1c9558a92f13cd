"""Features equal Keras' under a strict mapping of random weights."""

import flax
import numpy as np
import pytest

from deeplab.models.encoders import mobilenet_v2
from tests.models.encoders import cases

VARIABLES = {
  'kernel': 'kernel',
  'scale': 'gamma',
  'bias': 'beta',
  'mean': 'moving_mean',
  'var': 'moving_variance',
}
OUTPUTS = (
  'expanded_conv_project_BN',
  'block_2_add',
  'block_5_add',
  'block_12_add',
  'out_relu',
)


def keras_name(path):
  """Returns the names of Keras' layer and variable for a flax path."""
  _, *modules, kind, leaf = path
  norm = kind == 'bn'
  if modules[0] in ('stem', 'top'):
    conv, bn = {
      'stem': ('Conv1', 'bn_Conv1'),
      'top': ('Conv_1', 'Conv_1_bn'),
    }[modules[0]]
    return (bn if norm else conv), VARIABLES[leaf]
  block, part = modules[:2]
  block = 'expanded_conv' if block == 'block_0' else block
  return f'{block}_{part}' + ('_BN' if norm else ''), VARIABLES[leaf]


def assign(model, variables):
  """Copies every variable to Keras; raises unless both sides are used up."""
  left = {
    (layer.name, weight.name): weight
    for layer in model.layers
    for weight in layer.weights
  }
  for path, value in flax.traverse_util.flatten_dict(variables).items():
    name = keras_name(path)
    weight = left.pop(name)
    if '_depthwise' in name[0] and name[1] == 'kernel':
      value = value.transpose(0, 1, 3, 2)
    if tuple(weight.shape) != value.shape:
      raise ValueError(f'{name} is {weight.shape} in Keras, not {value.shape}')
    weight.assign(value)
  if left:
    raise ValueError(f'Keras weights without a source: {sorted(left)}')


def keras_features(alpha, size, variables, outputs):
  keras = pytest.importorskip('keras')
  model = keras.applications.MobileNetV2(
    input_shape=(*size, 3), alpha=alpha, include_top=False, weights=None
  )
  assign(model, variables)
  taps = [model.get_layer(name).output for name in outputs]
  x = 4 * cases.images(*size, seed=1)  # so that some maps are clipped at 6
  return x, [np.asarray(f) for f in keras.Model(model.input, taps)(x)]


def assert_equal(ours, theirs):
  assert len(ours) == len(theirs)
  for a, b in zip(ours, theirs, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())
    assert b.std() > 1e-2


@pytest.mark.parametrize(
  ('alpha', 'size'),
  [
    (0.35, (64, 65)),
    pytest.param(0.5, (65, 64), marks=pytest.mark.full),
    pytest.param(1.0, (64, 65), marks=pytest.mark.full),
    pytest.param(1.4, (97, 70), marks=pytest.mark.full),
  ],
)
def test_features_equal_keras(alpha, size):
  encoder = mobilenet_v2.MobileNetV2(
    output_stride=32,
    alpha=alpha,
    padding='keras',
    bn_decay=0.999,
    top_conv=True,
  )
  variables = cases.variables(encoder)
  x, theirs = keras_features(alpha, size, variables, OUTPUTS)
  assert_equal(cases.features(encoder, variables, x), theirs)


@pytest.mark.full
def test_cuts_equal_keras():
  full = mobilenet_v2.MobileNetV2(alpha=0.5, padding='keras', top_conv=True)
  variables = cases.variables(full)
  names = ('block_13_expand_relu', 'block_6_expand_relu')
  x, theirs = keras_features(0.5, (64, 64), variables, names)
  ours = []
  for name in names:
    cut = mobilenet_v2.MobileNetV2(
      alpha=0.5, padding='keras', cut=name.removesuffix('_relu')
    )
    own = flax.traverse_util.flatten_dict(cases.variables(cut))
    every = flax.traverse_util.flatten_dict(variables)
    subset = flax.traverse_util.unflatten_dict({k: every[k] for k in own})
    ours.append(cases.features(cut, subset, x)[-1])
  assert_equal(ours, theirs)
