"""Features equal Keras' under a strict mapping of random weights."""

import pytest

from deeplab.models.encoders import resnet
from tests.models.encoders import cases
from tests.models.encoders import keras_cases

OUTPUTS = (
  'conv1_relu',
  'conv2_block3_out',
  'conv3_block4_out',
  'conv4_block6_out',
  'conv5_block3_out',
)
# What Keras' ResNets have and the paper's have not, and its strides.
FIELDS = {
  'stride_conv': '1x1',
  'conv_bias': True,
  'bn_decay': 0.99,
  'bn_epsilon': 1.001e-5,
}


def keras_name(path):
  """Returns the names of Keras' layer and variable for a flax path."""
  _, *modules, kind, leaf = path
  if modules[0] == 'stem_1':
    prefix = 'conv1'
  else:
    part = modules[1]
    number = '0' if part == 'shortcut' else part.removeprefix('conv_')
    prefix = f'{modules[0]}_{number}'
  if kind == 'bn':
    return f'{prefix}_bn', keras_cases.VARIABLES[leaf]
  return f'{prefix}_conv', leaf


@pytest.mark.full
@pytest.mark.parametrize('size', [(64, 65), (97, 70)])
def test_features_equal_keras(size):
  encoder = resnet.ResNet50(output_stride=32, **FIELDS)
  variables = cases.variables(encoder)
  x, theirs = keras_cases.features(
    'ResNet50', size, variables, keras_name, OUTPUTS
  )
  cases.assert_equal(cases.features(encoder, variables, x), theirs)


@pytest.mark.full
def test_cuts_equal_keras():
  variables = cases.variables(resnet.ResNet50(**FIELDS))
  names = ('conv4_block6_out', 'conv3_block4_out')
  x, theirs = keras_cases.features(
    'ResNet50', (64, 64), variables, keras_name, names
  )
  ours = []
  for name in names:
    cut = resnet.ResNet50(cut=name, **FIELDS)
    own = cases.subset(cases.variables(cut), variables)
    ours.append(cases.features(cut, own, x)[-1])
  cases.assert_equal(ours, theirs)
