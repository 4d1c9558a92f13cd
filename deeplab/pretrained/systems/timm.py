"""Names of timm's classifiers."""

from itertools import accumulate
import re
from typing import Any

from deeplab.models.encoders import ghostnet
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import regnet
from deeplab.models.encoders import resnet
from deeplab.models.encoders import xception
from deeplab.pretrained.systems import mapping
from deeplab.pretrained.systems import torchvision

PyTree = Any

# The number of the first block in each of timm's stages.
_GHOSTNET_STAGES = (0, 1, 2, 3, 4, 5, 6, 11, 12)
_MOBILENET_V2_STAGES = (0, *accumulate((1, 2, 3, 4, 3, 3)))
# By the number of blocks: Large and Small.
_MOBILENET_V3_STAGES = {
  15: (0, *accumulate((1, 2, 3, 4, 2))),
  11: (0, *accumulate((1, 2, 3, 2))),
}


def _stage_block_name(block: str, firsts: tuple[int, ...]) -> str:
  """Returns 'blocks.<stage>.<number in the stage>' of our 'block_<number>'."""
  number = int(block.removeprefix('block_'))
  stage = max(i for i, first in enumerate(firsts) if number >= first)
  return f'blocks.{stage}.{number - firsts[stage]}'


def _ghostnet(module: str, norm: bool) -> str | None:
  if module == 'stem':
    return 'bn1' if norm else 'conv_stem'
  if module == 'top':
    return 'blocks.9.0.' + ('bn1' if norm else 'conv')
  block, _, part = module.partition('/')
  if not part:
    return None
  prefix = _stage_block_name(block, _GHOSTNET_STAGES)
  ghost = re.fullmatch(r'ghost_(\d)/(primary|cheap)', part)
  if ghost:
    inner = {'primary': 'primary_conv', 'cheap': 'cheap_operation'}[ghost[2]]
    return f'{prefix}.ghost{ghost[1]}.{inner}.{int(norm)}'
  last = {
    'squeeze_excite/reduce': 'se.conv_reduce',
    'squeeze_excite/expand': 'se.conv_expand',
    'depthwise': 'bn_dw' if norm else 'conv_dw',
    'shortcut_depthwise': f'shortcut.{int(norm)}',
    'shortcut_project': f'shortcut.{2 + int(norm)}',
  }.get(part)
  return f'{prefix}.{last}' if last else None


# The first block has no expansion, so its layers have other numbers.
_FIRST_BLOCK_LAYERS = {
  'depthwise': ('conv_dw', 'bn1'),
  'project': ('conv_pw', 'bn2'),
}
_BLOCK_LAYERS = {
  'expand': ('conv_pw', 'bn1'),
  'depthwise': ('conv_dw', 'bn2'),
  'project': ('conv_pwl', 'bn3'),
}
_SQUEEZE_EXCITE_LAYERS = {
  'squeeze_excite/reduce': ('se.conv_reduce',),
  'squeeze_excite/expand': ('se.conv_expand',),
}


def _block_layer_name(
  module: str, norm: bool, firsts: tuple[int, ...]
) -> str | None:
  """Returns the name of a layer of an inverted residual block."""
  block, _, part = module.partition('/')
  if not part:
    return None
  block_layers = _FIRST_BLOCK_LAYERS if block == 'block_0' else _BLOCK_LAYERS
  pair = (block_layers | _SQUEEZE_EXCITE_LAYERS).get(part)
  return f'{_stage_block_name(block, firsts)}.{pair[norm]}' if pair else None


def _mobilenet_v2(module: str, norm: bool) -> str | None:
  if module == 'stem':
    return 'bn1' if norm else 'conv_stem'
  if module == 'top':
    return 'bn2' if norm else 'conv_head'
  return _block_layer_name(module, norm, _MOBILENET_V2_STAGES)


def _mobilenet_v3(variables: PyTree) -> mapping.ModuleNamer:
  params = variables['params']['encoder']
  count = sum(name.startswith('block_') for name in params)
  firsts = _MOBILENET_V3_STAGES.get(count, ())

  def name(module: str, norm: bool) -> str | None:
    if module == 'stem':
      return 'bn1' if norm else 'conv_stem'
    if not firsts:
      return None
    if module == 'top':
      return f'blocks.{len(firsts)}.0.' + ('bn1' if norm else 'conv')
    return _block_layer_name(module, norm, firsts)

  return name


def _regnet(module: str, norm: bool) -> str | None:
  last = 'bn' if norm else 'conv'
  if module == 'stem':
    return f'stem.{last}'
  match = re.fullmatch(r'stage(\d)_block(\d+)/(\w+)', module)
  if not match:
    return None
  inner = match[3].replace('conv_', 'conv').replace('shortcut', 'downsample')
  return f's{match[1]}.b{match[2]}.{inner}.{last}'


def _xception(variables: PyTree) -> mapping.ModuleNamer:
  params = variables['params']['encoder']
  flows = ('entry', 'middle', 'exit')

  def name(module: str, norm: bool) -> str | None:
    layer = 'bn' if norm else 'conv'
    match = re.fullmatch(r'(\w+)_(\d+)(?:/(\w+?)(?:_(\d)/(\w+))?)?', module)
    if not match:
      return None
    number = int(match[2]) - 1
    if match[1] == 'stem':
      return f'stem.{number}.{layer}'
    if match[1] not in flows:
      return None
    earlier = flows[: flows.index(match[1])]
    block = f'blocks.{number + sum(k.startswith(earlier) for k in params)}'
    if match[3] == 'shortcut':
      return f'{block}.shortcut.{layer}'
    half = {'depthwise': 'dw', 'pointwise': 'pw'}[match[5]]
    return f'{block}.stack.conv{match[4]}.{layer}_{half}'

  return name


SYSTEM = mapping.WeightSystem(
  encoders={
    ghostnet.GhostNet: mapping.torch_mapping(
      'encoder',
      _ghostnet,
      unused=rf'(conv_head|classifier|blocks\.9)\..*|{mapping.BATCH_COUNTERS}',
      fields={
        'padding': 'symmetric',
        'bn_epsilon': 1e-5,
        'squeeze': 'divisible',
        'gate': 'hard_sigmoid',
      },
    ),
    mobilenet_v2.MobileNetV2: mapping.torch_mapping(
      'encoder',
      _mobilenet_v2,
      unused=rf'(conv_head|bn2|classifier)\..*|{mapping.BATCH_COUNTERS}',
      fields={
        'padding': 'symmetric',
        'rounding': 'keras',
        'bn_epsilon': 1e-5,
      },
    ),
    mobilenet_v3.MobileNetV3: mapping.varying_torch_mapping(
      _mobilenet_v3,
      unused=rf'(conv_head|classifier|blocks\.[56]\.0)\..*|{mapping.BATCH_COUNTERS}',
      fields={
        'padding': 'symmetric',
        'rounding': 'torchvision',
        'bn_epsilon': 1e-5,
      },
    ),
    regnet.RegNet: mapping.torch_mapping(
      'encoder',
      _regnet,
      unused=rf'head\.fc\..*|{mapping.BATCH_COUNTERS}',
      fields={'bn_epsilon': 1e-5},
    ),
    xception.Xception: mapping.varying_torch_mapping(
      _xception,
      unused=rf'head\.fc\..*|{mapping.BATCH_COUNTERS}',
      fields={'bn_epsilon': 1e-3},
    ),
    resnet.ResNet: torchvision.SYSTEM.encoders[resnet.ResNet],
  }
)
