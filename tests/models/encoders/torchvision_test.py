"""Features equal torchvision's under a strict mapping of random weights.

The project does not need torch: these tests run where torch and torchvision
are installed besides, and are skipped elsewhere.
"""

import re

import flax
import pytest

from deeplab.models.encoders import regnet
from deeplab.models.encoders import resnet
from tests import torchvision_module
from tests.models.encoders import cases

VARIABLES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}


def resnet_module(modules, norm):
  """Returns the name of torchvision's ResNet module for a flax path."""
  if modules[0] == 'stem_1':
    return 'bn1' if norm else 'conv1'
  stage, block = re.fullmatch(r'conv(\d)_block(\d+)', modules[0]).groups()
  prefix = f'layer{int(stage) - 1}.{int(block) - 1}'
  if modules[1] == 'shortcut':
    return f'{prefix}.downsample.{int(norm)}'
  number = modules[1].removeprefix('conv_')
  return f'{prefix}.{"bn" if norm else "conv"}{number}'


def regnet_module(modules, norm):
  """Returns the name of torchvision's RegNet module for a flax path."""
  if modules[0] == 'stem':
    return f'stem.{int(norm)}'
  stage, block = re.fullmatch(r'stage(\d)_block(\d+)', modules[0]).groups()
  part = {
    'conv_1': 'f.a',
    'conv_2': 'f.b',
    'conv_3': 'f.c',
    'shortcut': 'proj',
  }[modules[1]]
  unit = f'trunk_output.block{stage}.block{stage}-{int(block) - 1}'
  return f'{unit}.{part}.{int(norm)}'


def assign(model, variables, module):
  """Copies every variable to torch; raises unless both sides are used up."""
  torch = pytest.importorskip('torch')
  state = {}
  for path, value in flax.traverse_util.flatten_dict(variables).items():
    _, *modules, kind, leaf = path
    if leaf == 'kernel':
      value = value.transpose(3, 2, 0, 1)
    name = f'{module(modules, kind == "bn")}.{VARIABLES[leaf]}'
    state[name] = torch.from_numpy(value.copy())
  missing, unexpected = model.load_state_dict(state, strict=False)
  left = [
    name
    for name in missing
    if not name.startswith('fc.') and not name.endswith('num_batches_tracked')
  ]
  if left or unexpected:
    raise ValueError(f'without a source: {left}, a place: {unexpected}')


def resnet_features(model, x):
  """Returns torchvision's maps at nominal strides 2 .. 32."""
  maps = []
  for name, module in model.named_children():
    if name == 'avgpool':
      return maps
    x = module(x)
    if name == 'relu' or name.startswith('layer'):
      maps.append(x)
  raise ValueError('no avgpool')


def regnet_features(model, x):
  """Returns torchvision's maps at nominal strides 2 .. 32."""
  maps = [model.stem(x)]
  for stage in model.trunk_output.children():
    maps.append(stage(maps[-1]))
  return maps


def both(name, encoder, size, **arguments):
  """Returns our maps and torchvision's, [B, H, W, C], for the same weights.

  Args:
    name: of torchvision's model.
    encoder: ours.
    size: (H, W).
    **arguments: torchvision's.
  """
  torch = pytest.importorskip('torch')
  torchvision = torchvision_module.load()[1]
  module, features = {
    'resnet': (resnet_module, resnet_features),
    'regnet': (regnet_module, regnet_features),
  }[name[:6]]
  model = getattr(torchvision.models, name)(weights=None, **arguments).eval()
  variables = cases.variables(encoder)
  assign(model, variables, module)
  x = cases.images(*size, seed=1)
  with torch.no_grad():
    maps = features(model, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
  theirs = [f.numpy().transpose(0, 2, 3, 1) for f in maps]
  return cases.features(encoder, variables, x), theirs


@pytest.mark.parametrize('size', [(65, 97), (64, 50)])
@pytest.mark.parametrize(
  ('name', 'encoder'),
  [
    ('resnet18', resnet.ResNet18(32)),
    pytest.param('resnet34', resnet.ResNet34(32), marks=pytest.mark.full),
    pytest.param('resnet50', resnet.ResNet50(32), marks=pytest.mark.full),
    pytest.param('resnet101', resnet.ResNet101(32), marks=pytest.mark.full),
    # torchvision's widths are others in this one alone.
    (
      'regnet_x_400mf',
      regnet.RegNetX400MF(32, widths=(32, 64, 160, 400)),
    ),
    pytest.param(
      'regnet_x_800mf', regnet.RegNetX800MF(32), marks=pytest.mark.full
    ),
    pytest.param(
      'regnet_x_1_6gf', regnet.RegNetX1600MF(32), marks=pytest.mark.full
    ),
    pytest.param(
      'regnet_x_3_2gf', regnet.RegNetX3200MF(32), marks=pytest.mark.full
    ),
  ],
)
def test_features_equal_torchvision(name, encoder, size):
  cases.assert_equal(*both(name, encoder, size), rtol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize('size', [(65, 97), (64, 50)])
@pytest.mark.parametrize(
  ('output_stride', 'dilated'),
  [
    (16, (False, False, True)),
    (8, (False, True, True)),
    (4, (True, True, True)),
  ],
)
def test_atrous_features_equal_torchvision(output_stride, dilated, size):
  encoder = resnet.ResNet50(output_stride)
  maps = both('resnet50', encoder, size, replace_stride_with_dilation=dilated)
  cases.assert_equal(*maps, rtol=1e-4)
