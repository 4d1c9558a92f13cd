"""Names of `keras.applications`, in the form of the reader `hdf5`.

MobileNetV3's layers were renamed: 'expanded_conv/depthwise/BatchNorm' in Keras
2, which the published files still have, is 'expanded_conv_depthwise_bn' in
Keras 3. Other published files are older than all these names
('mobl1_conv_1_expand', 'convolution2d_1'). Keras loads them by the order of the
layers, and so does this module.
"""

from collections.abc import Mapping
import functools
import re
from typing import Any

import numpy as np

from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import resnet
from deeplab.models.encoders import xception_keras
from deeplab.pretrained import merge
from deeplab.pretrained.readers import hdf5
from deeplab.pretrained.systems import mapping


def _mobilenet_v2(module: str, norm: bool) -> str | None:
  if module == 'stem':
    return 'bn_Conv1' if norm else 'Conv1'
  if module == 'top':
    return 'Conv_1_bn' if norm else 'Conv_1'
  block, _, part = module.partition('/')
  if not part:
    return None
  block = 'expanded_conv' if block == 'block_0' else block
  return f'{block}_{part}' + ('_BN' if norm else '')


def _mobilenet_v3(module: str, norm: bool) -> str | None:
  suffix = '_bn' if norm else ''
  if module in ('stem', 'top'):
    return {'stem': 'conv', 'top': 'conv_1'}[module] + suffix
  block, _, part = module.partition('/')
  block = block.replace('block', 'expanded_conv').removesuffix('_0')
  part = {
    'squeeze_excite/reduce': 'squeeze_excite_conv',
    'squeeze_excite/expand': 'squeeze_excite_conv_1',
  }.get(part, part)
  return f'{block}_{part}{suffix}' if part else None


def _resnet(module: str, norm: bool) -> str | None:
  suffix = '_bn' if norm else '_conv'
  if module == 'stem_1':
    return f'conv1{suffix}'
  unit, _, part = module.partition('/')
  if not part:
    return None
  number = '0' if part == 'shortcut' else part.removeprefix('conv_')
  return f'{unit}_{number}{suffix}'


# Suffixes of the shortcuts, the only layers that Keras numbers.
_SHORTCUT_SUFFIXES = {
  'block2': '',
  'block3': '_1',
  'block4': '_2',
  'block13': '_3',
}


def _xception(module: str, norm: bool) -> str | None:
  suffix = '_bn' if norm else ''
  if module.startswith('block1_'):
    return f'{module}{suffix}'
  match = re.fullmatch(r'(block\d+)/separable_(\d)/(\w+)', module)
  if match:
    layer = f'{match[1]}_sepconv{match[2]}'
    return f'{layer}_bn' if norm else f'{layer}/{match[3]}_kernel'
  block, _, part = module.partition('/')
  if part != 'shortcut' or block not in _SHORTCUT_SUFFIXES:
    return None
  layer = 'batch_normalization' if norm else 'conv2d'
  return layer + _SHORTCUT_SUFFIXES[block]


def _to_keras3_name(name: str) -> str:
  """Returns Keras 3's name of one of MobileNetV3's tensors."""
  layer, _, variable = name.rpartition('/')
  layer = layer.replace('/BatchNorm', '_bn').replace('/', '_').lower()
  return f'{layer}/{variable}'


def _group_by_layer(tensors: Mapping[str, Any]) -> dict[str, list[str]]:
  """Returns the names of each layer's variables, in the order of a file."""
  layers: dict[str, list[str]] = {}
  for name in tensors:
    layers.setdefault(name.partition('/')[0], []).append(name)
  return layers


@functools.cache
def _layers_in_order(application: str) -> list[tuple[str, tuple[str, ...]]]:
  """Returns the layers of an application and their variables, in order."""
  import keras  # imports TensorFlow, so only for old files

  model = getattr(keras.applications, application)(
    include_top=False, weights=None
  )
  layers = [layer for layer in model.layers if layer.weights]
  numbers = hdf5.renumber_layers(layer.name for layer in layers)
  return [
    (
      numbers.get(layer.name, layer.name),
      tuple(weight.name for weight in layer.weights),
    )
    for layer in layers
  ]


def _align_by_order(
  application: str, first: str, classifier: str, tensors: merge.Tensors
) -> merge.Tensors:
  """Renames the tensors of an old file to the names in today's Keras.

  Args:
    application: function of `keras.applications`.
    first: name of its first layer; a file that has it is not old.
    classifier: name for a last layer that a file may have.
    tensors: tensors of any file; those of another network are returned
      unchanged.
  """
  old = _group_by_layer(tensors)
  if first in old or any(name.count('/') != 1 for name in tensors):
    return tensors
  new = [*_layers_in_order(application), (classifier, ('kernel', 'bias'))]
  if not len(new) - 1 <= len(old) <= len(new):
    return tensors
  aligned: dict[str, np.ndarray] = {}
  for (layer, variables), names in zip(new, old.values(), strict=False):
    if len(variables) != len(names):
      return tensors
    for variable, name in zip(variables, names, strict=True):
      aligned[f'{layer}/{variable}'] = tensors[name]
  return aligned


def _encoder_mapping(
  modules: mapping.ModuleNamer, **fields: Any
) -> mapping.PartMapping:
  return mapping.PartMapping(
    functools.partial(
      mapping.keras_tensor_refs, scope='encoder', modules=modules
    ),
    **fields,
  )


SYSTEM = mapping.WeightSystem(
  encoders={
    mobilenet_v2.MobileNetV2: _encoder_mapping(
      _mobilenet_v2,
      unused='(predictions|Logits|Conv_1|Conv_1_bn)/.*',
      fields={'padding': 'keras', 'rounding': 'keras', 'bn_epsilon': 1e-3},
      normalization=mapping.SIGNED_NORMALIZATION,
      align=functools.partial(
        _align_by_order, 'MobileNetV2', 'Conv1', 'predictions'
      ),
    ),
    mobilenet_v3.MobileNetV3: _encoder_mapping(
      _mobilenet_v3,
      unused='(conv_1|conv_1_bn|conv_2|logits)/.*',
      fields={'padding': 'keras', 'rounding': 'keras', 'bn_epsilon': 1e-3},
      normalization=mapping.SIGNED_NORMALIZATION,
      rename=_to_keras3_name,
    ),
    resnet.ResNet: _encoder_mapping(
      _resnet,
      unused='(predictions|fc1000|probs)/.*',
      fields={
        'stride_conv': '1x1',
        'conv_bias': True,
        'padding': 'symmetric',
        'bn_epsilon': 1.001e-5,
      },
      normalization=mapping.CAFFE_NORMALIZATION,
      bgr=True,
    ),
    xception_keras.XceptionKeras: _encoder_mapping(
      _xception,
      unused='predictions/.*',
      fields={'padding': 'same', 'valid_stem': True, 'bn_epsilon': 1e-3},
      normalization=mapping.SIGNED_NORMALIZATION,
      align=functools.partial(
        _align_by_order, 'Xception', 'block1_conv1', 'predictions'
      ),
    ),
  }
)
