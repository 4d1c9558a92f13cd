"""Names of TF-slim's networks and TF DeepLab's heads.

`research/slim/nets` and `research/deeplab` of the TensorFlow models repository.
A layer is a scope there. In a checkpoint it holds `weights` or
`depthwise_weights`, and `BatchNorm` or `biases`; in a converted file, read by
`tflite_weights`, it only holds `weights` and `biases`.
"""

from collections.abc import Callable
import functools
import math
import re
from typing import Any

from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import resnet
from deeplab.models.encoders import xception
from deeplab.models.heads import deeplabv3
from deeplab.models.heads import deeplabv3plus
from deeplab.pretrained import merge
from deeplab.pretrained.systems import mapping

PyTree = Any
TensorRefs = mapping.TensorRefs

# Tensors that our networks do not use: optimizers' state, classifiers of
# ImageNet's classes, and the layer before them where the network lacks it.
_UNUSED_TENSORS = (
  r'global_step|beta[12]_power|'
  r'.*/(Momentum|ExponentialMovingAverage|RMSProp|Adam)(_\d+)?|'
  r'(MobilenetV[23]|xception_\d+|resnet_v1_\d+)/([Ll]ogits|Conv_[12])/.*|'
  r'MobileNetV2/(Conv2d_18_1|top/Conv2d_1x1_output)/.*'
)

_PATH_PATTERN = re.compile(
  r'(?P<layer>.+?)/(conv/|norm/)?(?P<variable>kernel|bias|bn/\w+)'
)
_VARIABLE_NAMES = {
  'kernel': 'weights',
  'bias': 'biases',
  'bn/scale': 'BatchNorm/gamma',
  'bn/bias': 'BatchNorm/beta',
  'bn/mean': 'BatchNorm/moving_mean',
  'bn/var': 'BatchNorm/moving_variance',
}


def _map_layers(
  variables: PyTree, part: str, scope: Callable[[str], str | None]
) -> TensorRefs:
  """Returns the tensor reference of each variable of a part of the network.

  Args:
    variables: nested {'params', 'batch_stats'}.
    part: 'encoder' or 'head'.
    scope: function from the path of a layer, without the part, to its scope in
      the file; None where there is no counterpart.
  """
  refs = {}
  for path in mapping.missing_tensor_refs(variables, part):
    match = _PATH_PATTERN.fullmatch(path.removeprefix(f'{part}/'))
    name = match and scope(match['layer'])
    if not match or name is None:
      refs[path] = mapping.NO_TENSOR
    elif match['variable'] == 'kernel' and match['layer'].endswith('depthwise'):
      refs[path] = merge.TensorRef(f'{name}/depthwise_weights', 'hwim')
    else:
      refs[path] = merge.TensorRef(
        f'{name}/{_VARIABLE_NAMES[match["variable"]]}'
      )
  return refs


def _matched_groups(variables: PyTree, pattern: str) -> set[str]:
  """Returns all matches of a pattern's group at the start of our paths."""
  matches = (
    re.match(pattern, path) for path in merge.flatten_variables(variables)
  )
  return {match[1] for match in matches if match}


def _mobilenet(variables: PyTree, root: str) -> TensorRefs:
  scopes = {
    'stem': 'Conv',
    'top': 'Conv_1',
    'squeeze_excite/reduce': 'squeeze_excite/Conv',
    'squeeze_excite/expand': 'squeeze_excite/Conv_1',
  }

  def scope(layer: str) -> str:
    block, _, inner = layer.partition('/')
    if not inner:
      return f'{root}/{scopes[block]}'
    suffix = '' if block == 'block_0' else block.removeprefix('block')
    return f'{root}/expanded_conv{suffix}/{scopes.get(inner, inner)}'

  return _map_layers(variables, 'encoder', scope)


def _mobilenet_v2(variables: PyTree) -> TensorRefs:
  """Returns the references of a MobileNetV2 encoder, `nets/mobilenet`."""
  return _mobilenet(variables, 'MobilenetV2')


def _mobilenet_v3(variables: PyTree) -> TensorRefs:
  """Returns the references of a MobileNetV3 encoder, `nets/mobilenet`."""
  return _mobilenet(variables, 'MobilenetV3')


def _mobilenet_v2_official(variables: PyTree) -> TensorRefs:
  """Returns the references of a MobileNetV2 trained by newer TensorFlow.

  Its blocks are numbered from 1; other layers have their position in the name.
  """

  def scope(layer: str) -> str:
    block, _, inner = layer.partition('/')
    if not inner:
      return {
        'stem': 'MobileNetV2/Conv2d_0_0',
        'top': 'MobileNetV2/Conv2d_18_1',
      }[block]
    number = int(block.removeprefix('block_')) + 1
    return f'MobileNetV2/expanded_conv_{number}/{inner}'

  return _map_layers(variables, 'encoder', scope)


def _xception(variables: PyTree) -> TensorRefs:
  """Returns the references of an Xception encoder, `core/xception.py`.

  The names hold the network's name: five blocks in the entry flow make it
  Xception-71, eight in the middle flow Xception-41, others Xception-65.
  """
  root = 'xception_65'
  if len(_matched_groups(variables, r'encoder/entry_(\d+)')) == 5:
    root = 'xception_71'
  elif len(_matched_groups(variables, r'encoder/middle_(\d+)')) == 8:
    root = 'xception_41'

  def scope(layer: str) -> str:
    block, _, inner = layer.partition('/')
    flow, number = block.split('_')
    if not inner:  # of the stem
      return f'{root}/entry_flow/conv1_{number}'
    unit = f'block{number}/unit_1'
    if flow == 'middle':
      unit = f'block1/unit_{number}'
    inner = re.sub(r'separable_(\d)/', r'separable_conv\1_', inner)
    return f'{root}/{flow}_flow/{unit}/xception_module/{inner}'

  return _map_layers(variables, 'encoder', scope)


def _resnet_v1(variables: PyTree) -> TensorRefs:
  """Returns the references of a ResNet encoder of bottlenecks.

  Its stem is the single layer of `nets/resnet_v1.py`, or the three layers of
  `core/resnet_v1_beta.py`.
  """
  deep = len(_matched_groups(variables, r'encoder/(conv4_block\d+)')) > 6
  beta = len(_matched_groups(variables, r'encoder/stem_(\d)')) > 1
  root = 'resnet_v1_101' if deep else 'resnet_v1_50'

  def scope(layer: str) -> str:
    block, _, inner = layer.partition('/')
    if not inner:
      suffix = block.removeprefix('stem') if beta else ''
      return f'{root}/conv1{suffix}'
    stage, unit = block.removeprefix('conv').split('_block')
    inner = inner.replace('conv_', 'conv')
    return f'{root}/block{int(stage) - 1}/unit_{unit}/bottleneck_v1/{inner}'

  return _map_layers(variables, 'encoder', scope)


def _resnet_normalization(variables: PyTree) -> mapping.Normalization:
  """Returns the normalization of `core/feature_extractor.py` for ResNet.

  Networks with the deep stem read images in -1..1, others images minus a mean.
  """
  deep = 'stem_2' in variables['params']['encoder']
  return (
    mapping.SIGNED_NORMALIZATION if deep else mapping.CENTERED_NORMALIZATION
  )


def _deeplab_head(variables: PyTree) -> TensorRefs:
  """Returns the references of a DeepLabV3 or DeepLabV3+ head, `model.py`.

  It has no `refine`: a layer of that name has no tensor.
  """
  scopes = {
    'aspp/pool': 'image_pooling',
    'aspp/conv': 'aspp0',
    'aspp/projection': 'concat_projection',
    'low_level': 'decoder/feature_projection0',
    'classifier': 'logits/semantic',
  }

  def scope(layer: str) -> str | None:
    if layer in scopes:
      return scopes[layer]
    match = re.fullmatch(
      r'(aspp/atrous|decoder)(\d+)/?(depthwise|pointwise|)', layer
    )
    if not match:
      return None
    number, inner = int(match[2]), match[3] and f'_{match[3]}'
    if match[1] == 'decoder':
      return f'decoder/decoder_conv{number}{inner}'
    return f'aspp{number + 1}{inner}'

  return _map_layers(variables, 'head', scope)


def _fold_tensor_refs(tensor_refs: TensorRefs) -> TensorRefs:
  """Returns the tensor references in a converted file: kernels and biases.

  BatchNorms are folded into the layers before them there: their biases come
  from the file, and `unfold_batch_norm` estimates their other variables.

  Args:
    tensor_refs: the tensor references in a checkpoint.
  """
  result = {}
  for path, (name, layout, roll) in tensor_refs.items():
    scope, _, kind = name.rpartition('/')
    if kind in ('weights', 'depthwise_weights'):
      layout = 'ohwi' if kind == 'weights' else '1hwo'
      result[path] = merge.TensorRef(f'{scope}/weights', layout, roll)
    elif kind in ('biases', 'beta'):
      scope = scope.removesuffix('/BatchNorm')
      result[path] = merge.TensorRef(f'{scope}/biases')
    elif not name:
      result[path] = mapping.NO_TENSOR
  return result


def _part_mapping(
  tensor_refs: Callable[[PyTree], TensorRefs],
  converted: bool,
  normalization: mapping.Normalization
  | Callable[[PyTree], mapping.Normalization] = mapping.SIGNED_NORMALIZATION,
  **fields: Any,
) -> mapping.PartMapping:
  """Returns a mapping that requires `fields`, but no epsilon if converted."""
  if not converted:
    return mapping.PartMapping(
      tensor_refs, _UNUSED_TENSORS, fields, normalization
    )
  fields.pop('bn_epsilon')
  return mapping.PartMapping(
    lambda v: _fold_tensor_refs(tensor_refs(v)),
    _UNUSED_TENSORS,
    fields,
    normalization,
  )


# Output channels of MobileNetV2's blocks at alpha 1, by the block's number.
_BLOCK_CHANNELS = {1: 24, 3: 32, 6: 64, 10: 96, 13: 160, 16: 320}


def _mobilenet_v2_fields(
  tensors: merge.Tensors, axis: int
) -> dict[str, Any] | None:
  """Returns the fields of a MobileNetV2 that its kernels tell.

  Args:
    tensors: the tensors of a file by name.
    axis: axis of a kernel's output channels.

  Returns:
    None if the blocks have no widths that a multiplier explains.
  """
  widths = {}
  for block in _BLOCK_CHANNELS:
    name = f'MobilenetV2/expanded_conv_{block}/project/weights'
    if name not in tensors:
      return None
    widths[block] = tensors[name].shape[axis]
  alpha = round(widths[16] / 320, 3)
  for rounding in ('keras', 'slim'):
    if all(
      mobilenet_v2.scale_channels(_BLOCK_CHANNELS[block], alpha, rounding) == n
      for block, n in widths.items()
    ):
      return {'encoder.alpha': alpha, 'encoder.rounding': rounding}
  return None


def _candidates(
  tensors: merge.Tensors,
  sizes: mapping.LayerSizes,
  converted: bool,
) -> list[mapping.Candidate]:
  """Returns the networks of TF DeepLab that fit a file.

  Args:
    tensors: the tensors of a file by name.
    sizes: sizes of the maps that its layers read, if it holds a graph.
    converted: the system of converted files, with folded BatchNorms.
  """
  axis, low = (0, 3) if converted else (-1, 2)
  biases = 'logits/semantic/biases'
  if biases not in tensors or 'concat_projection/weights' not in tensors:
    return []
  cityscapes = len(tensors[biases]) == 19
  decoder = tensors.get('decoder/feature_projection0/weights')
  if ('concat_projection/biases' in tensors) != converted:
    return []
  xception = [name for name in tensors if name.startswith('xception_')]
  if 'MobilenetV2/Conv/weights' in tensors:
    fields = _mobilenet_v2_fields(tensors, axis)
    if fields is None:
      return []
    page = 'cityscapes_slim.py:mnv2' if cityscapes else 'voc_mnv2.py:mobile'
    if decoder is not None:
      page = 'voc_mnv2.py'
      expanded = decoder.shape[low] > 100 * fields['encoder.alpha']
      fields['encoder.tap'] = 'expanded' if expanded else 'output'
      if 'aspp1_pointwise/weights' not in tensors:
        fields['head.rates'] = ()
  elif xception:
    page = 'cityscapes_slim.py:xception65' if cityscapes else 'voc_xception.py'
    fields = {'encoder.name': xception[0].partition('/')[0]}
  else:
    return []
  if 'aspp0' in sizes:
    (height, _), (rows, _) = next(iter(sizes.values())), sizes['aspp0']
    fields['output_stride'] = 2 ** round(math.log2(height / rows))
  return [mapping.Candidate(f'configs/{page}', fields)]


def _make_system(converted: bool) -> mapping.WeightSystem:
  """Returns TF DeepLab's and TF-slim's system, for checkpoints or .tflite."""
  head: dict[str, Any] = {'bn_epsilon': 1e-5}
  if not converted:  # a converted file may resize maps in either way
    head['align_corners'] = True
  return mapping.WeightSystem(
    encoders={
      mobilenet_v2.MobileNetV2: _part_mapping(
        _mobilenet_v2, converted, padding='same', bn_epsilon=1e-3
      ),
      mobilenet_v3.MobileNetV3: _part_mapping(
        _mobilenet_v3, converted, padding='same', bn_epsilon=1e-3
      ),
      xception.Xception: _part_mapping(_xception, converted, bn_epsilon=1e-3),
      resnet.ResNet: _part_mapping(
        _resnet_v1,
        converted,
        _resnet_normalization,
        padding='symmetric',
        pool_padding='same',
        stride_unit='last',
        bn_epsilon=1e-5,
      ),
    },
    heads={
      deeplabv3.DeepLabV3: _part_mapping(_deeplab_head, converted, **head),
      deeplabv3plus.DeepLabV3Plus: _part_mapping(
        _deeplab_head, converted, **head
      ),
    },
    segmenter_prefix='logits/semantic/',
    batch_norms_folded=converted,
    candidates=functools.partial(_candidates, converted=converted),
    classifier='logits/semantic/biases',
  )


SYSTEM = _make_system(converted=False)
CONVERTED_SYSTEM = _make_system(converted=True)
OFFICIAL_SYSTEM = mapping.WeightSystem(
  encoders={
    mobilenet_v2.MobileNetV2: _part_mapping(
      _mobilenet_v2_official, True, padding='same', bn_epsilon=1e-3
    )
  },
  batch_norms_folded=True,
)
