"""Names of PaddleSeg's MobileSeg and of its five encoders.

A name is a function of the modules of our path, its last one 'conv' or 'bn':
['block_0', 'expand', 'bn'].
"""

from collections.abc import Callable
import re
from typing import Any

from deeplab.models.encoders import ghostnet
from deeplab.models.encoders import lite_hrnet
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import shufflenet_v2
from deeplab.models.heads import mobileseg
from deeplab.pretrained import merge
from deeplab.pretrained.systems import mapping

_STATISTICS = {'running_mean': '_mean', 'running_var': '_variance'}


def _conv_norm(kind: str) -> str:
  """Returns the name of a part of ConvBN."""
  return {'conv': '_conv', 'bn': '_batch_norm'}[kind]


def _mobilenet_v2(modules: list[str]) -> str:
  """Returns the layer of an encoder."""
  if modules[0] == 'stem':
    return f'conv1.{_conv_norm(modules[-1])}'
  block = int(modules[0].removeprefix('block_'))
  firsts = (0, 1, 3, 6, 10, 13, 16)
  stage = max(i for i, first in enumerate(firsts) if block >= first)
  number = block - firsts[stage] + 1
  name = '_first_block' if number == 1 else f'conv{stage + 2}_{number}'
  part = {
    'expand': '_expand_conv',
    'depthwise': '_bottleneck_conv',
    'project': '_linear_conv',
  }[modules[1]]
  return f'conv{stage + 2}.{name}.{part}.{_conv_norm(modules[-1])}'


def _mobilenet_v3(modules: list[str]) -> str:
  """Returns the layer of an encoder."""
  if modules[0] == 'stem':
    return f'conv.{modules[-1]}'
  block = f'blocks.{modules[0].removeprefix("block_")}'
  if modules[1] == 'squeeze_excite':
    name = {'reduce': 'conv1', 'expand': 'conv2'}[modules[2]]
    return f'{block}.mid_se.{name}'
  part = {
    'expand': 'expand_conv',
    'depthwise': 'bottleneck_conv',
    'project': 'linear_conv',
  }[modules[1]]
  return f'{block}.{part}.{modules[-1]}'


def _shufflenet(modules: list[str]) -> str:
  """Returns the layer of an encoder."""
  if modules[0] == 'stem':
    return f'_conv1.{_conv_norm(modules[-1])}'
  unit = int(modules[0].removeprefix('unit_'))
  stage = sum(unit >= first for first in (0, 4, 12))
  number = unit - (0, 4, 12)[stage - 1] + 1
  part = {
    'shortcut_depthwise': '_conv_dw_1',
    'shortcut_project': '_conv_linear_1',
    'expand': '_conv_pw',
    'depthwise': '_conv_dw',
    'project': '_conv_linear',
  }[modules[1]]
  if number == 1 and not modules[1].startswith('shortcut'):
    part += '_2'
  return f'{stage + 1}_{number}.{part}.{_conv_norm(modules[-1])}'


def _ghostnet(modules: list[str]) -> str:
  """Returns the layer of an encoder."""
  if modules[0] == 'stem':
    return f'conv1.{_conv_norm(modules[-1])}'
  block = f'_ghostbottleneck_{modules[0].removeprefix("block_")}'
  if modules[1] == 'squeeze_excite':
    name = {'reduce': 'squeeze', 'expand': 'excitation'}[modules[2]]
    return f'{block}.se_block.{name}'
  if modules[1].startswith('ghost_'):
    half = {'primary': 'primary_conv', 'cheap': 'cheap_operation'}[modules[2]]
    name = f'{modules[1].replace("ghost", "ghost_module")}.{half}'
  else:
    name = {
      'depthwise': 'depthwise_conv',
      'shortcut_depthwise': 'shortcut_depthwise',
      'shortcut_project': 'shortcut_conv',
    }[modules[1]]
  return f'{block}.{name}.{_conv_norm(modules[-1])}'


def _separable(name: str, modules: list[str], first: int = 0) -> str:
  """Returns the layer of a separable convolution in a list of layers."""
  half, kind = modules
  number = first + 2 * (half == 'pointwise') + (kind == 'bn')
  return f'{name}.{number}'


def _lite_hrnet(modules: list[str]) -> str:
  """Returns the layer of an encoder."""
  first, *rest = modules
  layer = {'conv': 'conv', 'bn': 'norm'}.get(rest[-1])
  if first == 'stem':
    name = {
      'conv': 'conv1',
      'shortcut_depthwise': 'branch1.0',
      'shortcut_project': 'branch1.1',
      'expand': 'expand_conv',
      'depthwise': 'depthwise_conv',
      'project': 'linear_conv',
    }[rest[0]]
    return f'stem.{name}.{layer}'
  if first.startswith('transition'):
    name, branch = first.split('_branch')
    chain = '' if (name, branch) == ('transition0', '0') else '.0'
    return _separable(f'{name}.{branch}{chain}', rest)
  if first.startswith('head'):
    number = 3 - int(first.removeprefix('head'))
    return f'head_layer.projects.{number}.{rest[0]}_conv.{layer}'
  stage, module = first.split('_module')
  prefix = f'{stage}.{module}'
  if rest[0].startswith('fuse'):
    to, start, *step = (
      rest[0].removeprefix('fuse').replace('from', '').split('_')
    )
    name = f'{prefix}.fuse_layers.{to}.{start}'
    if not step:
      return f'{name}.{int(rest[1] == "bn")}'
    return _separable(f'{name}.{int(step[0]) - 1}', rest[1:])
  prefix = f'{prefix}.layers.{rest[0].removeprefix("block")}'
  part, branch = rest[1].rstrip('0123456789'), rest[1][-1]
  if part in ('reduce', 'expand'):
    name = {'reduce': 'conv1', 'expand': 'conv2'}[part]
    return f'{prefix}.cross_resolution_weighting.{name}.{layer}'
  if part == 'depthwise':
    return f'{prefix}.depthwise_convs.{branch}.{layer}'
  name = {'reduce': 'conv1', 'expand': 'conv2'}[rest[2]]
  return f'{prefix}.spatial_weighting.{branch}.{name}.conv'


def _mobileseg(modules: list[str]) -> str:
  """Returns the layer of the head."""
  first, *rest = modules
  level = int(first.split('_')[0][-1]) if first[-1] in '012' else 0
  if first.startswith('pool'):
    return f'ppseg_head.cm.stages.{level}.1.{_conv_norm(rest[-1])}'
  if first.startswith('auxiliary'):
    level = int(first.split('_')[0].removeprefix('auxiliary'))
    first = first.split('_')[1]
  if first == 'classifier':
    return f'seg_heads.{level}.conv_out'
  block = {
    'context': 'ppseg_head.cm.conv_out',
    'conv': f'seg_heads.{level}.conv',
    f'skip{level}': f'ppseg_head.arm_list.{level}.conv_x',
    f'decoder{level}': f'ppseg_head.arm_list.{level}.conv_out',
  }[first]
  # PaddleSeg's spelling.
  half = {'depthwise': 'depthwise_conv', 'pointwise': 'piontwise_conv'}[rest[0]]
  return f'{block}.{half}.{_conv_norm(rest[-1])}'


# GhostNet's gates are matrices, [in, out].
_MATRIX = re.compile(r'.*\.se_block\.\w+\.weight')


def _tensor_refs(
  variables: mapping.PyTree, scope: str, layer: Callable[[list[str]], str]
) -> mapping.TensorRefs:
  """Returns the tensor references of an encoder or of the head.

  Args:
    variables: variables of our network.
    scope: 'encoder' or 'head'.
    layer: function from modules to the layer's name.
  """

  def name(module: str, norm: bool) -> str | None:
    try:
      return layer([*module.split('/'), 'bn' if norm else 'conv'])
    except (IndexError, KeyError, ValueError):  # of another network
      return None

  refs = mapping.torch_tensor_refs(variables, scope, name)
  for path, ref in refs.items():
    prefix, _, leaf = ref.name.rpartition('.')
    if leaf in _STATISTICS:
      refs[path] = ref._replace(name=f'{prefix}.{_STATISTICS[leaf]}')
    elif _MATRIX.fullmatch(ref.name):
      refs[path] = ref._replace(layout='io')
  return refs


def _drop_backbone_prefix(name: str) -> str:
  return name.removeprefix('backbone.')


def _encoder_mapping(
  layer: Callable[[list[str]], str], **fields: Any
) -> mapping.PartMapping:
  """Returns the mapping of an encoder, with the fields it requires."""
  return mapping.PartMapping(
    lambda variables: _tensor_refs(variables, 'encoder', layer),
    fields={'padding': 'symmetric', 'bn_epsilon': 1e-5, **fields},
    normalization=mapping.SIGNED_NORMALIZATION,
    rename=_drop_backbone_prefix,
  )


# Variants of the config page, by a tensor that only this encoder has.
_ENCODERS = {
  'backbone.conv2._first_block._expand_conv._conv.weight': 'mnv2',
  'backbone.blocks.0.expand_conv.conv.weight': 'mnv3',
  'backbone.stem.conv1.conv.weight': 'hrnet',
  'backbone._conv1._conv.weight': 'shufflenet',
  'backbone._ghostbottleneck_0.ghost_module_1.primary_conv._conv.weight': (
    'ghostnet'
  ),
}
_CLASSIFIER = 'seg_heads.0.conv_out.weight'


def _candidates(
  tensors: merge.Tensors, sizes: mapping.LayerSizes
) -> list[mapping.Candidate]:
  """Returns the MobileSeg that fits a file."""
  if _CLASSIFIER not in tensors:
    return []
  return [
    mapping.Candidate(f'configs/cityscapes_mobileseg.py:{encoder}')
    for name, encoder in _ENCODERS.items()
    if name in tensors
  ]


SYSTEM = mapping.WeightSystem(
  encoders={
    mobilenet_v2.MobileNetV2: _encoder_mapping(
      _mobilenet_v2, rounding='keras', expand_first=True, top_conv=False
    ),
    mobilenet_v3.MobileNetV3: _encoder_mapping(
      _mobilenet_v3,
      rounding='torchvision',
      expand_always=True,
      squeeze='exact',
      gate='hard_sigmoid_paddle',
      top_conv=False,
    ),
    shufflenet_v2.ShuffleNetV2: _encoder_mapping(_shufflenet, top_conv=False),
    ghostnet.GhostNet: _encoder_mapping(
      _ghostnet, squeeze='exact', gate='clip', top_conv=False
    ),
    lite_hrnet.LiteHRNet18: _encoder_mapping(_lite_hrnet),
  },
  heads={
    mobileseg.MobileSeg: mapping.PartMapping(
      lambda variables: _tensor_refs(variables, 'head', _mobileseg),
      fields={'bn_epsilon': 1e-5, 'align_corners': False},
    )
  },
  segmenter_prefix='seg_heads.',
  candidates=_candidates,
  classifier=re.escape(_CLASSIFIER),
)
