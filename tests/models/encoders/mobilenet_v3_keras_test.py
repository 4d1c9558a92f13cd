"""Features equal Keras' under a strict mapping of random weights."""

import numpy as np
import pytest

from deeplab.models.encoders import mobilenet_v3
from tests.models.encoders import cases
from tests.models.encoders import keras_cases

ENCODERS = {
  'MobileNetV3Large': mobilenet_v3.MobileNetV3Large,
  'MobileNetV3Small': mobilenet_v3.MobileNetV3Small,
}
# Layers whose outputs the first four entries are; the stem's activation has no
# name of its own, but is what the first block pads.
TAPS = {
  'MobileNetV3Large': (
    'expanded_conv_add',
    'expanded_conv_2_add',
    'expanded_conv_5_add',
    'expanded_conv_11_add',
  ),
  'MobileNetV3Small': (
    None,
    'expanded_conv_project_bn',
    'expanded_conv_2_add',
    'expanded_conv_7_add',
  ),
}


def keras_name(path):
  """Returns the names of Keras' layer and variable for a flax path."""
  _, *modules, kind, leaf = path
  variable = keras_cases.VARIABLES[leaf]
  norm = '_bn' if kind == 'bn' else ''
  if modules[0] in ('stem', 'top'):
    return {'stem': 'conv', 'top': 'conv_1'}[modules[0]] + norm, variable
  block = modules[0].replace('block', 'expanded_conv')
  block = block.removesuffix('_0')
  if modules[1] == 'squeeze_excite':
    number = {'reduce': '', 'expand': '_1'}[kind]
    return f'{block}_squeeze_excite_conv{number}', leaf
  return f'{block}_{modules[1]}{norm}', variable


@pytest.mark.parametrize(
  ('name', 'size', 'fields'),
  [
    ('MobileNetV3Small', (64, 65), {}),
    pytest.param('MobileNetV3Small', (65, 64), {'alpha': 0.5},
                 marks=pytest.mark.full),
    pytest.param('MobileNetV3Small', (64, 97), {'minimalistic': True},
                 marks=pytest.mark.full),
    pytest.param('MobileNetV3Large', (64, 65), {}, marks=pytest.mark.full),
    pytest.param('MobileNetV3Large', (97, 70), {'alpha': 0.75},
                 marks=pytest.mark.full),
    pytest.param('MobileNetV3Large', (70, 64), {'minimalistic': True},
                 marks=pytest.mark.full),
  ],
)  # fmt: skip
def test_features_equal_keras(name, size, fields):
  keras = pytest.importorskip('keras')
  encoder = ENCODERS[name](
    output_stride=32,
    rounding='keras',
    padding='keras',
    bn_decay=0.999,
    **fields,
  )
  variables = cases.variables(encoder)
  model = getattr(keras.applications, name)(
    input_shape=(*size, 3),
    include_top=False,
    weights=None,
    include_preprocessing=False,
    **fields,
  )
  keras_cases.assign(model, variables, keras_name)
  taps = [
    model.get_layer(tap).output
    if tap
    else model.get_layer('expanded_conv_depthwise_pad').input
    for tap in TAPS[name]
  ]
  x = 4 * cases.images(*size, seed=1)
  theirs = keras.Model(model.input, [*taps, model.output])(x)
  cases.assert_equal(
    cases.features(encoder, variables, x), [np.asarray(f) for f in theirs]
  )
