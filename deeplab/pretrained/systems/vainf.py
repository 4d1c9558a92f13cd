"""Names of VainF/DeepLabV3Plus-Pytorch.

Its ResNets are torchvision's; its MobileNetV2 is too, in two parts and with
padded inputs of blocks (`pad_input`). Its decoder concatenates the low-level
map first. A file's name ends with the output stride, '.._os16.pth'.
"""

import re
from typing import Any

from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import resnet
from deeplab.models.heads import deeplabv3
from deeplab.models.heads import deeplabv3plus
from deeplab.pretrained import merge
from deeplab.pretrained.systems import mapping
from deeplab.pretrained.systems import torchvision

PyTree = Any

# What --separable_conv puts in place of each 3x3 layer of the head is '.body'.
_BODY = '.body'


def _to_mapped_name(name: str) -> str:
  """Drops 'backbone.', and joins the two parts of MobileNetV2."""
  return re.sub(
    r'^(low|high)_level_features\.',
    'features.',
    name.removeprefix('backbone.'),
  )


def _deeplabv3(module: str, norm: bool) -> str | None:
  if module == 'classifier':
    return 'classifier.classifier.4'
  match = re.fullmatch(r'aspp/refine/?(\w*)', module)
  if match:
    conv, bn = 'classifier.classifier.1', 'classifier.classifier.2'
    return mapping.conv_layer_name(conv, bn, match[1], norm, _BODY)
  return torchvision.aspp_module_name(
    module, norm, 'classifier.classifier.0.', _BODY
  )


def _deeplabv3plus(module: str, norm: bool) -> str | None:
  if module == 'classifier':
    return 'classifier.classifier.3'
  if module == 'low_level':
    return f'classifier.project.{int(norm)}'
  match = re.fullmatch(r'decoder0/?(\w*)', module)
  if match:
    conv, bn = 'classifier.classifier.0', 'classifier.classifier.1'
    return mapping.conv_layer_name(conv, bn, match[1], norm, _BODY)
  return torchvision.aspp_module_name(module, norm, 'classifier.aspp.', _BODY)


def _deeplabv3_tensor_refs(variables: PyTree) -> mapping.TensorRefs:
  refs = mapping.torch_tensor_refs(variables, 'head', _deeplabv3)
  return torchvision.roll_pooling(refs, variables)


def _deeplabv3plus_tensor_refs(variables: PyTree) -> mapping.TensorRefs:
  refs = mapping.torch_tensor_refs(variables, 'head', _deeplabv3plus)
  refs = torchvision.roll_pooling(refs, variables)
  # Our decoder reads ASPP's result first, as wide as its own.
  return mapping.roll_channels(
    refs, variables, 'head/decoder0', lambda width: width
  )


# By the number of units in the third stage.
_RESNETS = {6: 'r50', 23: 'r101'}


def _candidates(
  tensors: merge.Tensors, sizes: mapping.LayerSizes
) -> list[mapping.Candidate]:
  """Returns the networks that fit a file, at both output strides.

  The rates double at output stride 8; the training program's default is 16.
  """
  if 'classifier.project.0.weight' in tensors:
    head, atrous = 'v3plus', 'classifier.aspp.convs.1.0'
  elif 'classifier.classifier.0.project.0.weight' in tensors:
    head, atrous = 'v3', 'classifier.classifier.0.convs.1.0'
  else:
    return []
  units = mapping.count_numbered(tensors, r'backbone\.layer3\.(\d+)\.')
  if 'backbone.low_level_features.0.0.weight' in tensors:
    encoder = 'mnv2'
  elif units in _RESNETS:
    encoder = _RESNETS[units]
  else:
    return []
  fields: dict[str, Any] = {}
  if f'{atrous}{_BODY}.0.weight' in tensors:
    fields = {'head.separable': True, 'head.depthwise_norm': False}
    if head == 'v3plus':
      fields['head.decoder_separable'] = True
    else:
      fields['head.refine'] = 'separable'
  return [
    mapping.Candidate(
      f'configs/folder_torch.py:vainf,{head},{encoder},{stride}',
      fields,
      stride,
      is_default=stride == 'os16',
    )
    for stride in ('os16', 'os8')
  ]


_FIELDS = {
  'padding': 'symmetric',
  'bn_epsilon': 1e-5,
  'dilation_rule': 'tf',
}
_HEAD_FIELDS = {'bn_epsilon': 1e-5, 'align_corners': False}

SYSTEM = mapping.WeightSystem(
  encoders={
    mobilenet_v2.MobileNetV2: mapping.varying_torch_mapping(
      torchvision.mobilenet_v2_namer,
      unused=mapping.BATCH_COUNTERS,
      fields={
        **_FIELDS,
        'rounding': 'keras',
        'pad_input': True,
        'top_conv': False,
      },
      normalization=mapping.IMAGENET_NORMALIZATION,
      rename=_to_mapped_name,
    ),
    resnet.ResNet: mapping.torch_mapping(
      'encoder',
      torchvision.resnet_module_name,
      unused=mapping.BATCH_COUNTERS,
      fields={
        **_FIELDS,
        'stem': 'v1',
        'stride_unit': 'first',
        'stride_conv': '3x3',
      },
      normalization=mapping.IMAGENET_NORMALIZATION,
      rename=_to_mapped_name,
    ),
  },
  heads={
    deeplabv3.DeepLabV3: mapping.PartMapping(
      _deeplabv3_tensor_refs, fields=_HEAD_FIELDS
    ),
    deeplabv3plus.DeepLabV3Plus: mapping.PartMapping(
      _deeplabv3plus_tensor_refs, fields=_HEAD_FIELDS
    ),
  },
  segmenter_prefix='classifier.classifier.',
  candidates=_candidates,
  classifier=r'classifier\.classifier\.[34]\.bias',
)
