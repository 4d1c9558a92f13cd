"""Features of Keras' weight files, read by the importer, equal Keras'."""

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import person_mnv2
from deeplab.models import registry
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import resnet
from deeplab.models.encoders import xception_keras
from deeplab.pretrained import load
from deeplab.pretrained import published_weights
from deeplab.pretrained.systems import keras
from tests.pretrained import weight_cases

MOBILENET_V2 = (
  'expanded_conv_project_BN',
  'block_2_add',
  'block_5_add',
  'block_12_add',
  'out_relu',
)
RESNET50 = (
  'conv1_relu',
  'conv2_block3_out',
  'conv3_block4_out',
  'conv4_block6_out',
  'conv5_block3_out',
)
RESNET101 = (*RESNET50[:3], 'conv4_block23_out', 'conv5_block3_out')
# The stem's activation has no name of its own, but is what the first block
# pads; the last has one that Keras numbers.
LARGE = (
  'expanded_conv_add',
  'expanded_conv_2_add',
  'expanded_conv_5_add',
  'expanded_conv_11_add',
  None,
)
SMALL = (
  'expanded_conv_depthwise_pad',
  'expanded_conv_project_bn',
  'expanded_conv_2_add',
  'expanded_conv_7_add',
  None,
)
V3 = {'rounding': 'keras', 'padding': 'keras'}
FIELDS = {'stride_conv': '1x1', 'conv_bias': True, 'bn_epsilon': 1.001e-5}


def application(name, size, taps, **arguments):
  """Returns a random application, and the outputs of its layers."""
  keras = pytest.importorskip('keras')
  if name.startswith('MobileNetV3'):
    arguments['include_preprocessing'] = False
  model = getattr(keras.applications, name)(
    input_shape=(*size, 3), include_top=False, weights=None, **arguments
  )
  weight_cases.keras_state(model)
  outputs = [
    model.output
    if tap is None
    else model.get_layer(tap).input
    if tap.endswith('pad')
    else model.get_layer(tap).output
    for tap in taps
  ]
  x = 4 * weight_cases.images(*size, seed=1)  # so that ReLU6 clips some maps
  maps = keras.Model(model.input, outputs)(x)
  return model, x, [np.asarray(f) for f in maps]


def mark(*values):
  return pytest.param(*values, marks=pytest.mark.full)


@pytest.mark.parametrize(
  ('alpha', 'size'),
  [
    (0.35, (64, 65)),
    mark(0.5, (65, 64)),
    mark(1.0, (64, 64)),
    mark(1.0, (65, 65)),
    mark(1.4, (97, 70)),
  ],
)
def test_mobilenet_v2(tmp_path, alpha, size):
  model, x, maps = application('MobileNetV2', size, MOBILENET_V2, alpha=alpha)
  encoder = mobilenet_v2.MobileNetV2(
    output_stride=32, alpha=alpha, padding='keras', top_conv=True
  )
  path = str(tmp_path / 'mobilenet_v2.h5')
  model.save(path)
  weight_cases.assert_features(path, 'keras', encoder, x, maps)


@pytest.mark.full
def test_mobilenet_v2_without_top_and_cut(tmp_path):
  names = ('block_13_expand_relu', 'block_6_expand_relu')
  model, x, maps = application('MobileNetV2', (64, 64), names, alpha=0.5)
  path = str(tmp_path / 'mobilenet_v2.weights.h5')
  model.save_weights(path)
  whole = mobilenet_v2.MobileNetV2(alpha=0.5, padding='keras')
  variables = weight_cases.import_encoder(path, 'keras', whole)
  ours = []
  for name in names:
    cut = whole.clone(cut=name.removesuffix('_relu'))
    own = weight_cases.encoder_cases.variables(cut)
    own = weight_cases.encoder_cases.subset(own, variables)
    ours.append(weight_cases.encoder_cases.features(cut, own, x)[-1])
  weight_cases.encoder_cases.assert_equal(ours, maps)


@pytest.mark.parametrize(
  ('name', 'taps', 'size', 'fields'),
  [
    ('Small', SMALL, (64, 65), {}),
    mark('Small', SMALL, (65, 64), {'alpha': 0.75}),
    mark('Small', SMALL, (64, 97), {'minimalistic': True}),
    mark('Large', LARGE, (64, 64), {}),
    mark('Large', LARGE, (97, 65), {}),
    mark('Large', LARGE, (97, 70), {'alpha': 0.75}),
    mark('Large', LARGE, (70, 64), {'minimalistic': True}),
  ],
)
def test_mobilenet_v3(tmp_path, name, taps, size, fields):
  model, x, maps = application(f'MobileNetV3{name}', size, taps, **fields)
  encoder = getattr(mobilenet_v3, f'MobileNetV3{name}')(
    output_stride=32, **V3, **fields
  )
  path = str(tmp_path / 'mobilenet_v3.keras')
  model.save(path)
  weight_cases.assert_features(path, 'keras', encoder, x, maps)


@pytest.mark.full
@pytest.mark.parametrize(
  ('name', 'taps', 'size'),
  [
    ('ResNet50', RESNET50, (64, 64)),
    ('ResNet50', RESNET50, (97, 65)),
    ('ResNet101', RESNET101, (65, 64)),
  ],
)
def test_resnet(tmp_path, name, taps, size):
  model, x, maps = application(name, size, taps)
  encoder = getattr(resnet, name)(32, **FIELDS)
  path = str(tmp_path / 'resnet.weights.h5')
  model.save_weights(path)
  weight_cases.assert_features(path, 'keras', encoder, x, maps)


XCEPTION = (
  'block2_sepconv2_bn',
  'block3_sepconv2_bn',
  'block4_sepconv2_bn',
  'block13_sepconv2_bn',
  'block14_sepconv2_act',
)


@pytest.mark.parametrize('size', [(75, 72), mark((96, 101))])
def test_xception(tmp_path, size):
  model, x, maps = application('Xception', size, XCEPTION)
  encoder = xception_keras.XceptionKeras(32, valid_stem=True)
  path = str(tmp_path / 'xception.keras')
  model.save(path)
  weight_cases.assert_features(path, 'keras', encoder, x, maps)


def old_file(path, model, names):
  """Writes the weights of a model under other names, as Keras 1 and 2 did."""
  with h5py.File(path, 'w') as f:
    layers = [layer for layer in model.layers if layer.weights]
    f.attrs['layer_names'] = [names(i, layer) for i, layer in enumerate(layers)]
    for name, layer in zip(f.attrs['layer_names'], layers, strict=True):
      group = f.create_group(name)
      group.attrs['weight_names'] = [
        f'{name}_{i}' for i in range(len(layer.weights))
      ]
      for i, weight in enumerate(layer.weights):
        group[f'{name}_{i}'] = np.asarray(weight)


def mobl(i, layer):
  """Returns the names of layers in the published files of MobileNetV2."""
  if layer.name.startswith('block_'):
    _, number, kind = layer.name.split('_', 2)
    return f'mobl{number}_conv_{number}_{kind}'
  return f'bn{i}' if layer.name.startswith('bn') else f'Convolution{i}'


def test_an_old_file_is_read_in_layer_order(tmp_path):
  model, x, maps = application(
    'MobileNetV2', (64, 64), MOBILENET_V2, alpha=0.35
  )
  path = str(tmp_path / 'mobilenet_v2.h5')
  old_file(path, model, mobl)
  encoder = mobilenet_v2.MobileNetV2(
    output_stride=32, alpha=0.35, padding='keras', top_conv=True
  )
  weight_cases.assert_features(path, 'keras', encoder, x, maps)


@pytest.mark.full
def test_an_old_file_of_xception(tmp_path):
  model, x, maps = application('Xception', (75, 72), XCEPTION)
  path = str(tmp_path / 'xception.h5')
  old_file(path, model, lambda i, layer: f'{type(layer).__name__.lower()}_{i}')
  encoder = xception_keras.XceptionKeras(32, valid_stem=True)
  weight_cases.assert_features(path, 'keras', encoder, x, maps)


@pytest.mark.full
def test_resnet_cuts(tmp_path):
  names = ('conv4_block6_out', 'conv3_block4_out')
  model, x, maps = application('ResNet50', (64, 64), names)
  path = str(tmp_path / 'resnet.h5')
  model.save(path)
  variables = weight_cases.import_encoder(
    path, 'keras', resnet.ResNet50(32, **FIELDS)
  )
  ours = []
  for name in names:
    cut = resnet.ResNet50(cut=name, **FIELDS)
    own = weight_cases.encoder_cases.variables(cut)
    own = weight_cases.encoder_cases.subset(own, variables)
    ours.append(weight_cases.encoder_cases.features(cut, own, x)[-1])
  weight_cases.encoder_cases.assert_equal(ours, maps)


@pytest.mark.parametrize(
  ('keras_2', 'keras_3'),
  [
    ('Conv/kernel', 'conv/kernel'),
    ('Conv/BatchNorm/gamma', 'conv_bn/gamma'),
    ('Conv_1/BatchNorm/beta', 'conv_1_bn/beta'),
    ('expanded_conv/depthwise/kernel', 'expanded_conv_depthwise/kernel'),
    (
      'expanded_conv_10/project/BatchNorm/moving_mean',
      'expanded_conv_10_project_bn/moving_mean',
    ),
    (
      'expanded_conv_3/squeeze_excite/Conv_1/bias',
      'expanded_conv_3_squeeze_excite_conv_1/bias',
    ),
  ],
)
def test_mobilenet_v3_of_keras_2_is_renamed(keras_2, keras_3):
  part = keras.SYSTEM.encoders[mobilenet_v3.MobileNetV3]
  assert part.rename(keras_2) == keras_3
  assert part.rename(keras_3) == keras_3


def test_a_cut_network_loads_a_published_file(tmp_path):
  keras = pytest.importorskip('keras')
  model = keras.applications.MobileNetV2(
    input_shape=(64, 64, 3), alpha=0.5, include_top=False, weights=None
  )
  config = person_mnv2.get_config().unlock()
  name = published_weights.PUBLISHED_WEIGHTS[
    config.init_from
  ].filename.removesuffix('.h5')
  model.save_weights(tmp_path / f'{name}.weights.h5')
  config.init_from = str(tmp_path / f'{name}.h5')
  (tmp_path / f'{name}.weights.h5').rename(config.init_from)
  network = registry.build_model(
    config.model, 2, depthwise='conv', pointwise='conv'
  )
  like = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  )
  variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(like))
  got, manifest = load.load_initial_variables(
    config, network, variables, lambda: iter(())
  )
  np.testing.assert_array_equal(
    got['params']['encoder']['block_13']['expand']['conv']['kernel'],
    model.get_layer('block_13_expand').get_weights()[0],
  )
  assert all(name.startswith('head/') for name in manifest.kept)
