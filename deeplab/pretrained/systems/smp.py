"""Names of segmentation_models.pytorch's DeepLabV3 and DeepLabV3+.

Its encoders are torchvision's below 'encoder.', with another rule for atrous
rates (`dilation_rule`). Its U-Net upsamples by nearest neighbors and its FPN
has group normalization: we have neither.
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

# Parts of a DeepLabV3 decoder in versions where it was a sequence.
_OLD_PARTS = {'0': 'aspp', '1': 'conv', '2': 'bn'}


def _to_mapped_name(name: str) -> str:
  """Drops 'encoder.', and gives an old decoder's parts their later names."""
  return re.sub(
    r'^decoder\.([012])\.',
    lambda match: f'decoder.{_OLD_PARTS[match[1]]}.',
    name.removeprefix('encoder.'),
  )


def _deeplabv3(module: str, norm: bool) -> str | None:
  if module == 'classifier':
    return 'segmentation_head.0'
  if module == 'aspp/refine':
    return 'decoder.bn' if norm else 'decoder.conv'
  return torchvision.aspp_module_name(module, norm, 'decoder.aspp.')


def _deeplabv3plus(module: str, norm: bool) -> str | None:
  if module == 'classifier':
    return 'segmentation_head.0'
  if module == 'low_level':
    return f'decoder.block1.{int(norm)}'
  part, _, half = module.rpartition('/')
  if part == 'aspp/refine':
    return mapping.conv_layer_name(
      'decoder.aspp.1', 'decoder.aspp.2', half, norm
    )
  if part == 'decoder0':
    return mapping.conv_layer_name(
      'decoder.block2.0', 'decoder.block2.1', half, norm
    )
  return torchvision.aspp_module_name(module, norm, 'decoder.aspp.0.')


def _head_mapping(modules: mapping.ModuleNamer) -> mapping.PartMapping:
  return mapping.PartMapping(
    lambda variables: torchvision.roll_pooling(
      mapping.torch_tensor_refs(variables, 'head', modules), variables
    ),
    unused=r'classification_head\..*',
    fields={'bn_epsilon': 1e-5, 'align_corners': True},
  )


# By the number of units in the third stage, and whether they are bottlenecks.
_RESNETS = {
  (2, False): 'resnet_18',
  (6, False): 'resnet_34',
  (6, True): 'resnet_50',
  (23, True): 'resnet_101',
}


def _candidates(
  tensors: merge.Tensors, sizes: mapping.LayerSizes
) -> list[mapping.Candidate]:
  """Returns the networks that fit a file, at both output strides.

  By default DeepLabV3+ has output stride 16, and DeepLabV3 8; both have rates
  12, 24 and 36.
  """
  classifier = tensors.get('segmentation_head.0.weight')
  if classifier is None:
    return []
  plus = 'decoder.block1.0.weight' in tensors
  fields: dict[str, Any] = {'head.channels': classifier.shape[1]}
  if plus:
    fields['head.decoder_channels'] = classifier.shape[1]
    fields['head.separable'] = 'decoder.aspp.0.convs.1.0.1.weight' in tensors
  elif any(
    f'decoder.{part}.project.0.weight' in tensors for part in ('aspp', '0')
  ):
    if any(name.endswith('convs.1.0.1.weight') for name in tensors):
      fields.update({'head.separable': True, 'head.depthwise_norm': False})
  else:
    return []
  units = mapping.count_numbered(tensors, r'encoder\.layer3\.(\d+)\.')
  bottleneck = 'encoder.layer1.0.conv3.weight' in tensors
  if 'encoder.features.0.0.weight' in tensors:
    encoder = 'mnv2'
  elif (units, bottleneck) in _RESNETS:
    encoder = 'r50'
    fields['encoder.name'] = _RESNETS[units, bottleneck]
  else:
    return []
  head = 'v3plus' if plus else 'v3'
  return [
    mapping.Candidate(
      f'configs/folder_torch.py:smp,{head},{encoder},{stride}',
      fields,
      stride,
      is_default=stride == ('os16' if plus else 'os8'),
    )
    for stride in ('os16', 'os8')
  ]


_FIELDS = {
  'padding': 'symmetric',
  'bn_epsilon': 1e-5,
  'dilation_rule': 'torchvision',
}

SYSTEM = mapping.WeightSystem(
  encoders={
    mobilenet_v2.MobileNetV2: mapping.varying_torch_mapping(
      torchvision.mobilenet_v2_namer,
      unused=mapping.BATCH_COUNTERS,
      fields={**_FIELDS, 'rounding': 'keras', 'top_conv': True},
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
        'basic_dilation': 'both',
      },
      normalization=mapping.IMAGENET_NORMALIZATION,
      rename=_to_mapped_name,
    ),
  },
  heads={
    deeplabv3.DeepLabV3: _head_mapping(_deeplabv3),
    deeplabv3plus.DeepLabV3Plus: _head_mapping(_deeplabv3plus),
  },
  segmenter_prefix='segmentation_head.',
  candidates=_candidates,
  classifier=r'segmentation_head\.0\.bias',
)
