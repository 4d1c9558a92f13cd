"""Features equal Keras' under a strict mapping of random weights."""

import pytest

from deeplab.models.encoders import mobilenet_v2
from tests.models.encoders import cases
from tests.models.encoders import keras_cases

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
    return (bn if norm else conv), keras_cases.VARIABLES[leaf]
  block, part = modules[:2]
  block = 'expanded_conv' if block == 'block_0' else block
  name = f'{block}_{part}' + ('_BN' if norm else '')
  return name, keras_cases.VARIABLES[leaf]


def keras_features(alpha, size, variables, outputs):
  return keras_cases.features(
    'MobileNetV2', size, variables, keras_name, outputs, alpha=alpha
  )


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
  cases.assert_equal(cases.features(encoder, variables, x), theirs)


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
    own = cases.subset(cases.variables(cut), variables)
    ours.append(cases.features(cut, own, x)[-1])
  cases.assert_equal(ours, theirs)
