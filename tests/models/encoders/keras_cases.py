"""What the tests against Keras' applications share."""

import flax
import numpy as np
import pytest

from tests.models.encoders import cases

VARIABLES = {
  'kernel': 'kernel',
  'scale': 'gamma',
  'bias': 'beta',
  'mean': 'moving_mean',
  'var': 'moving_variance',
}


def assign(model, variables, keras_name):
  """Copies every variable to Keras; raises unless both sides are used up.

  Args:
    model: the Keras model.
    variables: ours.
    keras_name: maps a flax path to the names of Keras' layer and variable.
  """
  left = {
    (layer.name, weight.name): weight
    for layer in model.layers
    for weight in layer.weights
  }
  for path, value in flax.traverse_util.flatten_dict(variables).items():
    name = keras_name(path)
    weight = left.pop(name)
    if name[1] == 'depthwise_kernel' or (
      '_depthwise' in name[0] and name[1] == 'kernel'
    ):
      value = value.transpose(0, 1, 3, 2)
    if tuple(weight.shape) != value.shape:
      raise ValueError(f'{name} is {weight.shape} in Keras, not {value.shape}')
    weight.assign(value)
  if left:
    raise ValueError(f'Keras weights without a source: {sorted(left)}')


def features(application, size, variables, keras_name, outputs, **arguments):
  """Returns images, and what layers of one of Keras' applications make of them.

  Args:
    application: its name.
    size: (H, W).
    variables: ours.
    keras_name: see `assign`.
    outputs: names of Keras' layers.
    **arguments: the application's.
  """
  keras = pytest.importorskip('keras')
  model = getattr(keras.applications, application)(
    input_shape=(*size, 3), include_top=False, weights=None, **arguments
  )
  assign(model, variables, keras_name)
  taps = [model.get_layer(name).output for name in outputs]
  x = 4 * cases.images(*size, seed=1)  # so that ReLU6 clips some maps
  return x, [np.asarray(f) for f in keras.Model(model.input, taps)(x)]
