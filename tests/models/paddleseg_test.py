"""Maps equal PaddleSeg's under a strict mapping of random weights.

At multiples of 32: its Lite-HRNet takes no other size.
"""

import jax
import pytest

from deeplab.models import segmenter
from deeplab.models.encoders import ghostnet
from deeplab.models.encoders import lite_hrnet
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import shufflenet_v2
from deeplab.models.heads import mobileseg
from tests.models import paddle_cases
from tests.models.encoders import encoder_cases


def conv_norm(kind):
  """Returns the sublayer name of PaddleSeg's ConvBNLayer."""
  return {'conv': '_conv', 'bn': '_batch_norm'}[kind]


def mobilenet_v2_name(modules):
  """Returns PaddleSeg's layer for the modules of a flax path."""
  if modules[0] == 'stem':
    return f'conv1.{conv_norm(modules[-1])}'
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
  return f'conv{stage + 2}.{name}.{part}.{conv_norm(modules[-1])}'


def mobilenet_v3_name(modules):
  """Returns PaddleSeg's layer for the modules of a flax path."""
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


def shufflenet_name(modules):
  """Returns PaddleSeg's layer for the modules of a flax path."""
  if modules[0] == 'stem':
    return f'_conv1.{conv_norm(modules[-1])}'
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
  return f'{stage + 1}_{number}.{part}.{conv_norm(modules[-1])}'


def ghostnet_name(modules):
  """Returns PaddleSeg's layer for the modules of a flax path."""
  if modules[0] == 'stem':
    return f'conv1.{conv_norm(modules[-1])}'
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
  return f'{block}.{name}.{conv_norm(modules[-1])}'


def separable(name, modules, first=0):
  """Returns the layer of a separable convolution in one of Paddle's lists."""
  half, kind = modules
  number = first + 2 * (half == 'pointwise') + (kind == 'bn')
  return f'{name}.{number}'


def lite_hrnet_name(modules):
  """Returns PaddleSeg's layer for the modules of a flax path."""
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
    return separable(f'{name}.{branch}{chain}', rest)
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
    return separable(f'{name}.{int(step[0]) - 1}', rest[1:])
  prefix = f'{prefix}.layers.{rest[0].removeprefix("block")}'
  part, number = rest[1].rstrip('0123456789'), rest[1][-1]
  if part in ('reduce', 'expand'):
    name = {'reduce': 'conv1', 'expand': 'conv2'}[part]
    return f'{prefix}.cross_resolution_weighting.{name}.{layer}'
  if part == 'depthwise':
    return f'{prefix}.depthwise_convs.{number}.{layer}'
  name = {'reduce': 'conv1', 'expand': 'conv2'}[rest[2]]
  return f'{prefix}.spatial_weighting.{number}.{name}.conv'


def mobileseg_name(modules):
  """Returns PaddleSeg's layer for the modules of a flax path in the head."""
  first, *rest = modules
  level = int(first.split('_')[0][-1]) if first[-1] in '012' else 0
  if first.startswith('pool'):
    return f'ppseg_head.cm.stages.{level}.1.{conv_norm(rest[-1])}'
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
  return f'{block}.{half}.{conv_norm(rest[-1])}'


# Our encoder, PaddleSeg's name and fields, and the mapping between them.
ENCODERS = {
  'mobilenet_v2': (
    mobilenet_v2.MobileNetV2(
      32, expand_first=True, padding='symmetric', bn_epsilon=1e-5
    ),
    ('MobileNetV2_x1_0', {}),
    mobilenet_v2_name,
  ),
  'mobilenet_v3_large': (
    mobilenet_v3.MobileNetV3Large(
      32,
      expand_always=True,
      squeeze='exact',
      gate='hard_sigmoid_paddle',
      bn_epsilon=1e-5,
      top_conv=False,
    ),
    ('MobileNetV3_large_x1_0', {}),
    mobilenet_v3_name,
  ),
  'shufflenet_v2': (
    shufflenet_v2.ShuffleNetV2(32),
    ('ShuffleNetV2_x1_0', {}),
    shufflenet_name,
  ),
  'ghostnet': (
    ghostnet.GhostNet(32),
    ('GhostNet_x1_0', {}),
    ghostnet_name,
  ),
  'lite_hrnet_18': (
    lite_hrnet.LiteHRNet18(32),
    ('Lite_HRNet_18', {'use_head': True}),
    lite_hrnet_name,
  ),
}


@pytest.mark.parametrize('name', ENCODERS)
def test_encoder(name, tmp_path):
  encoder, (backbone, fields), module_name = ENCODERS[name]
  variables = encoder_cases.variables(encoder)
  x = encoder_cases.images(64, 96, seed=1)
  request = {'backbone': backbone, 'fields': fields}
  theirs = paddle_cases.features(request, variables, module_name, x, tmp_path)
  # PaddleSeg does not return the map at stride 2.
  ours = encoder_cases.features(encoder, variables, x)[1:]
  encoder_cases.assert_equal(ours, theirs, 1e-4)


@pytest.mark.full
@pytest.mark.parametrize('name', ENCODERS)
def test_mobileseg(name, tmp_path):
  """The whole network: logits at the size of the image."""
  encoder, (backbone, fields), module_name = ENCODERS[name]
  first = 1 if name == 'lite_hrnet_18' else 2
  network = segmenter.Segmenter(
    encoder=encoder,
    head=mobileseg.MobileSeg(
      num_classes=19, stages=(first, first + 1, first + 2)
    ),
    auxiliary=None,
    num_classes=19,
  )
  variables = encoder_cases.variables(network, (64, 96))
  x = encoder_cases.images(64, 96, seed=1)
  request = {
    'backbone': backbone,
    'fields': fields,
    'head': {
      'num_classes': 19,
      'backbone_indices': [first - 1, first, first + 1],
      'cm_bin_sizes': [1, 2, 4],
      'cm_out_ch': 128,
      'arm_out_chs': [32, 64, 128],
      'seg_head_inter_chs': [32, 32, 32],
    },
  }

  def names(modules):
    part, *rest = modules
    if part == 'encoder':
      return f'backbone.{module_name(rest)}'
    return mobileseg_name(rest)

  theirs = paddle_cases.features(request, variables, names, x, tmp_path)
  ours = jax.jit(lambda v, x: network.apply(v, x).logits)(variables, x)
  encoder_cases.assert_equal([ours], theirs, 1e-4)
