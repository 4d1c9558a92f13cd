"""Names of torchvision's classifiers and segmentation networks.

A segmentation network's file has its encoder below 'backbone.', the main head
below 'classifier.' and possibly an auxiliary head below 'aux_classifier.'.
"""

import re
from typing import Any

from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import regnet
from deeplab.models.encoders import resnet
from deeplab.models.encoders import shufflenet_v2
from deeplab.models.heads import deeplabv3
from deeplab.models.heads import fcn
from deeplab.models.heads import lraspp
from deeplab.pretrained import merge
from deeplab.pretrained.systems import mapping

PyTree = Any


def resnet_module_name(module: str, norm: bool) -> str | None:
  """Returns the name of a ResNet's module; timm and mmsegmentation share it."""
  if module == 'stem_1':
    return 'bn1' if norm else 'conv1'
  match = re.fullmatch(r'conv(\d)_block(\d+)/(\w+)', module)
  if not match:
    return None
  prefix = f'layer{int(match[1]) - 1}.{int(match[2]) - 1}'
  if match[3] == 'shortcut':
    return f'{prefix}.downsample.{int(norm)}'
  number = match[3].removeprefix('conv_')
  return f'{prefix}.{"bn" if norm else "conv"}{number}'


def _regnet(module: str, norm: bool) -> str | None:
  if module == 'stem':
    return f'stem.{int(norm)}'
  match = re.fullmatch(r'stage(\d)_block(\d+)/(\w+)', module)
  if not match:
    return None
  stage, block = match[1], int(match[2]) - 1
  part = {'conv_1': 'f.a', 'conv_2': 'f.b', 'conv_3': 'f.c'}.get(
    match[3], 'proj'
  )
  unit = f'trunk_output.block{stage}.block{stage}-{block}'
  return f'{unit}.{part}.{int(norm)}'


def _block_params(variables: PyTree) -> dict[str, Any]:
  """Returns the parameters of the numbered blocks of an encoder."""
  params = variables['params']['encoder']
  return {k: v for k, v in params.items() if k.startswith('block_')}


def mobilenet_v2_namer(variables: PyTree) -> mapping.ModuleNamer:
  """Returns the names of MobileNetV2's modules, which others share."""
  blocks = _block_params(variables)

  def name(module: str, norm: bool) -> str | None:
    if module in ('stem', 'top'):
      number = 0 if module == 'stem' else len(blocks) + 1
      return f'features.{number}.{int(norm)}'
    block, _, part = module.partition('/')
    if block not in blocks:
      return None
    prefix = f'features.{int(block.removeprefix("block_")) + 1}.conv'
    first = 1 if 'expand' in blocks[block] else 0
    return {
      'expand': f'{prefix}.0.{int(norm)}',
      'depthwise': f'{prefix}.{first}.{int(norm)}',
      'project': f'{prefix}.{first + 1 + int(norm)}',
    }.get(part)

  return name


def _mobilenet_v3(variables: PyTree) -> mapping.ModuleNamer:
  blocks = _block_params(variables)

  def name(module: str, norm: bool) -> str | None:
    if module in ('stem', 'top'):
      number = 0 if module == 'stem' else len(blocks) + 1
      return f'features.{number}.{int(norm)}'
    block, _, part = module.partition('/')
    if block not in blocks:
      return None
    order = [
      p
      for p in ('expand', 'depthwise', 'squeeze_excite', 'project')
      if p in blocks[block]
    ]
    part, _, inner = part.partition('/')
    last = {'reduce': 'fc1', 'expand': 'fc2'}.get(inner, str(int(norm)))
    number = int(block.removeprefix('block_')) + 1
    return f'features.{number}.block.{order.index(part)}.{last}'

  return name


def _shufflenet_v2(variables: PyTree) -> mapping.ModuleNamer:
  units = variables['params']['encoder']
  # The first unit of each stage.
  firsts = sorted(
    int(unit.removeprefix('unit_'))
    for unit, parts in units.items()
    if 'shortcut_project' in parts
  )

  def name(module: str, norm: bool) -> str | None:
    if module in ('stem', 'top'):
      return f'{"conv1" if module == "stem" else "conv5"}.{int(norm)}'
    match = re.fullmatch(r'unit_(\d+)/(\w+)', module)
    if not match:
      return None
    number = int(match[1])
    stage = sum(number >= first for first in firsts)
    branch, conv = {
      'shortcut_depthwise': (1, 0),
      'shortcut_project': (1, 2),
      'expand': (2, 0),
      'depthwise': (2, 3),
      'project': (2, 5),
    }[match[2]]
    unit = number - firsts[stage - 1]
    return f'stage{stage + 1}.{unit}.branch{branch}.{conv + int(norm)}'

  return name


def aspp_module_name(
  module: str, norm: bool, prefix: str, infix: str = ''
) -> str | None:
  """Returns the name of a layer of ASPP; repositories built on it share it.

  Args:
    module: our path in the head, 'aspp/atrous0'.
    norm: True for its BatchNorm.
    prefix: name of the ASPP with a dot, 'classifier.0.'.
    infix: as in `mapping.conv_layer_name`, of depthwise-separable branches.
  """
  if module == 'aspp/projection':
    return f'{prefix}project.{int(norm)}'
  if module == 'aspp/pool':
    return f'{prefix}convs.4.{1 + int(norm)}'
  if module == 'aspp/conv':
    return f'{prefix}convs.0.{int(norm)}'
  match = re.fullmatch(r'aspp/atrous(\d)/?(\w*)', module)
  if not match:
    return None
  branch = f'{prefix}convs.{int(match[1]) + 1}'
  return mapping.conv_layer_name(
    f'{branch}.0', f'{branch}.1', match[2], norm, infix
  )


def roll_pooling(
  refs: mapping.TensorRefs, variables: PyTree
) -> mapping.TensorRefs:
  """Returns references of a head whose ASPP has the pooled branch last.

  Args:
    refs: tensor references of the head.
    variables: variables of our network, whose pooled branch is the first; it is
      as wide as the result.
  """
  return mapping.roll_channels(
    refs, variables, 'head/aspp/projection', lambda width: width
  )


def _deeplabv3(module: str, norm: bool) -> str | None:
  if module == 'classifier':
    return 'classifier.4'
  if module == 'aspp/refine':
    return 'classifier.2' if norm else 'classifier.1'
  return aspp_module_name(module, norm, 'classifier.0.')


def _deeplabv3_tensor_refs(variables: PyTree) -> mapping.TensorRefs:
  refs = mapping.torch_tensor_refs(variables, 'head', _deeplabv3)
  return roll_pooling(refs, variables)


def _fcn(prefix: str) -> mapping.ModuleNamer:
  def name(module: str, norm: bool) -> str | None:
    if module == 'classifier':
      return f'{prefix}.4'
    return f'{prefix}.{int(norm)}' if module == 'conv0' else None

  return name


def _lraspp(module: str, norm: bool) -> str | None:
  last = {
    'conv': f'cbr.{int(norm)}',
    'gate': 'scale.1',
    'classifier': 'high_classifier',
    'low_level_classifier': 'low_classifier',
  }.get(module)
  return f'classifier.{last}' if last else None


def _drop_backbone_prefix(name: str) -> str:
  return name.removeprefix('backbone.')


def _backbone_to_features(name: str) -> str:
  return re.sub(r'^backbone\.', 'features.', name)


# By the number of residual units in the third stage.
_RESNETS = {6: 'resnet_50', 23: 'resnet_101'}


def _auxiliary_fields(tensors: merge.Tensors) -> dict[str, Any]:
  """Returns the fields of the auxiliary head of a file."""
  kernel = 'aux_classifier.0.weight'
  if kernel not in tensors:
    return {'auxiliary.name': 'none'}
  return {
    'auxiliary.name': 'fcn',
    'auxiliary.channels': tensors[kernel].shape[0],
  }


def _candidates(
  tensors: merge.Tensors, sizes: mapping.LayerSizes
) -> list[mapping.Candidate]:
  """Returns the networks of `torchvision.models.segmentation` that fit.

  Atrous rates and the output stride are those of its constructors: a file does
  not hold them.
  """
  fields: dict[str, Any] = _auxiliary_fields(tensors)
  if 'backbone.layer1.0.conv3.weight' in tensors:
    depth = mapping.count_numbered(tensors, r'backbone\.layer3\.(\d+)\.')
    if depth not in _RESNETS:
      return []
    fields['encoder.name'] = _RESNETS[depth]
    network = 'r50'
  elif 'backbone.4.block.0.0.weight' in tensors:
    network = 'mnv3'
  else:
    return []
  if 'classifier.low_classifier.bias' in tensors:
    page = 'cocoseg21_torchvision.py:lraspp'
  elif 'classifier.4.bias' not in tensors:
    return []
  elif 'classifier.0.convs.0.0.weight' in tensors:
    page = 'cocoseg21_torchvision.py:deeplabv3'
  elif 'classifier.0.weight' in tensors:
    page = 'cityscapes_torchvision.py:fcn'
    fields['head.channels'] = tensors['classifier.0.weight'].shape[0]
  else:
    return []
  return [mapping.Candidate(f'configs/{page}_{network}', fields)]


_SYMMETRIC_FIELDS = {'padding': 'symmetric', 'bn_epsilon': 1e-5}
_HEAD_FIELDS = {'bn_epsilon': 1e-5, 'align_corners': False}

SYSTEM = mapping.WeightSystem(
  encoders={
    mobilenet_v2.MobileNetV2: mapping.varying_torch_mapping(
      mobilenet_v2_namer,
      unused=rf'classifier\.1\..*|features\.18\..*|{mapping.BATCH_COUNTERS}',
      fields={**_SYMMETRIC_FIELDS, 'rounding': 'keras'},
      normalization=mapping.IMAGENET_NORMALIZATION,
    ),
    mobilenet_v3.MobileNetV3: mapping.varying_torch_mapping(
      _mobilenet_v3,
      unused=rf'classifier\.[03]\.(weight|bias)|{mapping.BATCH_COUNTERS}',
      fields={
        'padding': 'symmetric',
        'rounding': 'torchvision',
        'bn_epsilon': 1e-3,
      },
      normalization=mapping.IMAGENET_NORMALIZATION,
      rename=_backbone_to_features,
    ),
    regnet.RegNet: mapping.torch_mapping(
      'encoder',
      _regnet,
      unused=rf'fc\..*|{mapping.BATCH_COUNTERS}',
      fields={'bn_epsilon': 1e-5},
      normalization=mapping.IMAGENET_NORMALIZATION,
    ),
    resnet.ResNet: mapping.torch_mapping(
      'encoder',
      resnet_module_name,
      unused=rf'fc\..*|{mapping.BATCH_COUNTERS}',
      fields={
        **_SYMMETRIC_FIELDS,
        'stem': 'v1',
        'stride_unit': 'first',
        'stride_conv': '3x3',
      },
      normalization=mapping.IMAGENET_NORMALIZATION,
      rename=_drop_backbone_prefix,
    ),
    shufflenet_v2.ShuffleNetV2: mapping.varying_torch_mapping(
      _shufflenet_v2,
      unused=rf'fc\..*|conv5\..*|{mapping.BATCH_COUNTERS}',
      fields=_SYMMETRIC_FIELDS,
      normalization=mapping.IMAGENET_NORMALIZATION,
    ),
  },
  heads={
    deeplabv3.DeepLabV3: mapping.PartMapping(
      _deeplabv3_tensor_refs, fields=_HEAD_FIELDS
    ),
    fcn.FCN: mapping.torch_mapping(
      'head', _fcn('classifier'), fields=_HEAD_FIELDS
    ),
    lraspp.LRASPP: mapping.torch_mapping(
      'head',
      _lraspp,
      fields={**_HEAD_FIELDS, 'gate': 'sigmoid', 'gate_bias': False},
    ),
  },
  auxiliaries={
    fcn.FCN: mapping.torch_mapping(
      'auxiliary', _fcn('aux_classifier'), fields=_HEAD_FIELDS
    )
  },
  unused=r'aux_classifier\..*',
  candidates=_candidates,
  classifier=r'classifier\.(4|low_classifier)\.bias',
)
