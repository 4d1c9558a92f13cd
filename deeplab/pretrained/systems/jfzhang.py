"""Names of jfzhang95/pytorch-deeplab-xception: ResNet-101 and MobileNetV2.

A MobileNetV2 is in a file three times, whole and in two parts. Later versions
have dropout layers between the last convolutions, which shift their numbers.
"""

import re
from typing import Any

from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import resnet
from deeplab.models.heads import deeplabv3plus
from deeplab.pretrained import merge
from deeplab.pretrained.systems import mapping
from deeplab.pretrained.systems import torchvision

PyTree = Any

# Numbers of the second and third convolution and of the BatchNorm between them:
# in later versions, and in the first ones, which the names below have.
_LATER_NUMBERS = {'4': '3', '5': '4', '8': '6'}
_LAST_CONV = 'decoder.last_conv.'


def _align(tensors: merge.Tensors) -> merge.Tensors:
  """Numbers the last convolutions as the first versions did."""
  if f'{_LAST_CONV}8.weight' not in tensors:
    return tensors

  def rename(name: str) -> str:
    if not name.startswith(_LAST_CONV):
      return name
    number, _, leaf = name.removeprefix(_LAST_CONV).partition('.')
    return f'{_LAST_CONV}{_LATER_NUMBERS.get(number, number)}.{leaf}'

  return {rename(name): tensor for name, tensor in tensors.items()}


def _drop_backbone_prefix(name: str) -> str:
  return name.removeprefix('backbone.')


def _mobilenet_v2(module: str, norm: bool) -> str | None:
  if module == 'stem':
    return f'features.0.{int(norm)}'
  block, _, part = module.partition('/')
  if not part:
    return None
  number = int(block.removeprefix('block_'))
  parts = ['expand', 'depthwise', 'project'][number == 0 :]
  return f'features.{number + 1}.conv.{3 * parts.index(part) + int(norm)}'


def _deeplabv3plus(module: str, norm: bool) -> str | None:
  if module == 'classifier':
    return f'{_LAST_CONV}6'
  if module == 'aspp/pool':
    return f'aspp.global_avg_pool.{1 + int(norm)}'
  if module in ('aspp/projection', 'low_level'):
    part = 'aspp' if module == 'aspp/projection' else 'decoder'
    return f'{part}.{"bn" if norm else "conv"}1'
  match = re.fullmatch(r'decoder(\d)', module)
  if match:
    return f'{_LAST_CONV}{3 * int(match[1]) + int(norm)}'
  match = re.fullmatch(r'aspp/(conv|atrous(\d))', module)
  if not match:
    return None
  branch = 1 if match[1] == 'conv' else int(match[2]) + 2
  return f'aspp.aspp{branch}.{"bn" if norm else "atrous_conv"}'


def _head_tensor_refs(variables: PyTree) -> mapping.TensorRefs:
  refs = mapping.torch_tensor_refs(variables, 'head', _deeplabv3plus)
  return torchvision.roll_pooling(refs, variables)


def _candidates(
  tensors: merge.Tensors, sizes: mapping.LayerSizes
) -> list[mapping.Candidate]:
  """Returns the networks that fit a file, at both output strides.

  The rates double at output stride 8; the training program's default is 16.
  """
  units = mapping.count_numbered(tensors, r'backbone\.layer3\.(\d+)\.')
  if 'aspp.aspp1.atrous_conv.weight' not in tensors:
    return []
  if 'backbone.features.0.0.weight' in tensors:
    encoder = 'mnv2'
  elif units == 23:
    encoder = 'r101'
  else:
    return []
  return [
    mapping.Candidate(
      f'configs/folder_torch.py:jfzhang,{encoder},{stride}',
      tag=stride,
      is_default=stride == 'os16',
    )
    for stride in ('os16', 'os8')
  ]


_FIELDS = {'padding': 'symmetric', 'bn_epsilon': 1e-5}

SYSTEM = mapping.WeightSystem(
  encoders={
    mobilenet_v2.MobileNetV2: mapping.torch_mapping(
      'encoder',
      _mobilenet_v2,
      unused=rf'(low|high)_level_features\..*|{mapping.BATCH_COUNTERS}',
      fields={
        **_FIELDS,
        'rounding': 'keras',
        'dilation_rule': 'stage',
        'pad_input': True,
        'top_conv': False,
      },
      normalization=mapping.IMAGENET_NORMALIZATION,
      rename=_drop_backbone_prefix,
      align=_align,
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
        'dilation_rule': 'torchvision',
      },
      normalization=mapping.IMAGENET_NORMALIZATION,
      rename=_drop_backbone_prefix,
      align=_align,
    ),
  },
  heads={
    deeplabv3plus.DeepLabV3Plus: mapping.PartMapping(
      _head_tensor_refs, fields={'bn_epsilon': 1e-5, 'align_corners': True}
    ),
  },
  segmenter_prefix='aspp.',
  candidates=_candidates,
  classifier=rf'{re.escape(_LAST_CONV)}[68]\.bias',
)
