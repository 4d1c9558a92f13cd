"""Features equal torchvision's and timm's, whose weights are ours.

Under a strict mapping of random weights and statistics. Skipped where those
packages are not installed: nothing else needs them.
"""

import pytest

from deeplab.models.encoders import ghostnet
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import shufflenet_v2
from tests import torchvision_module
from tests.models.encoders import cases
from tests.models.encoders import torch_cases


def mobilenet_name(path, params):
  """Returns torchvision's module for a flax path."""
  *modules, kind = path
  index = torch_cases.numbered(0, 1, kind)
  blocks = sum(name.startswith('block_') for name in params)
  if modules[0] in ('stem', 'top'):
    return f'features.{0 if modules[0] == "stem" else blocks + 1}.{index}'
  parts = [
    part
    for part in ('expand', 'depthwise', 'squeeze_excite', 'project')
    if part in params[modules[0]]
  ]
  layer = parts.index(modules[1])
  if modules[1] == 'squeeze_excite':
    index = {'reduce': 'fc1', 'expand': 'fc2'}[kind]
  block = int(modules[0].removeprefix('block_'))
  return f'features.{block + 1}.block.{layer}.{index}'


def shufflenet_name(path, params):
  del params
  modules, kind = path[:-1], path[-1]
  if modules[0] in ('stem', 'top'):
    name = {'stem': 'conv1', 'top': 'conv5'}[modules[0]]
    return f'{name}.{torch_cases.numbered(0, 1, kind)}'
  unit = int(modules[0].removeprefix('unit_'))
  stage = sum(unit >= first for first in (0, 4, 12))
  branch, conv = {
    'shortcut_depthwise': (1, 0),
    'shortcut_project': (1, 2),
    'expand': (2, 0),
    'depthwise': (2, 3),
    'project': (2, 5),
  }[modules[1]]
  number = torch_cases.numbered(conv, conv + 1, kind)
  return (
    f'stage{stage + 1}.{unit - (0, 4, 12)[stage - 1]}.branch{branch}.{number}'
  )


def ghostnet_name(path, params):
  """Returns timm's module for a flax path."""
  del params
  modules, kind = path[:-1], path[-1]
  if modules[0] == 'stem':
    return torch_cases.numbered('conv_stem', 'bn1', kind)
  if modules[0] == 'top':
    return 'blocks.9.0.' + torch_cases.numbered('conv', 'bn1', kind)
  block = int(modules[0].removeprefix('block_'))
  # Blocks of timm's stages: a new one behind each stride.
  firsts = (0, 1, 2, 3, 4, 5, 6, 11, 12)
  stage = max(i for i, first in enumerate(firsts) if block >= first)
  prefix = f'blocks.{stage}.{block - firsts[stage]}'
  if modules[1] in ('ghost_1', 'ghost_2'):
    name = {'primary': 'primary_conv', 'cheap': 'cheap_operation'}[modules[2]]
    ghost = modules[1].replace('_', '')
    return f'{prefix}.{ghost}.{name}.{torch_cases.numbered(0, 1, kind)}'
  if modules[1] == 'squeeze_excite':
    return f'{prefix}.se.conv_{kind}'
  if modules[1] == 'depthwise':
    return f'{prefix}.{torch_cases.numbered("conv_dw", "bn_dw", kind)}'
  first = {'shortcut_depthwise': 0, 'shortcut_project': 2}[modules[1]]
  return f'{prefix}.shortcut.{torch_cases.numbered(first, first + 1, kind)}'


def run(layers, x, taps):
  """Returns the maps behind some layers of a sequence, channels last."""
  import torch

  maps, x = [], torch.from_numpy(x.transpose(0, 3, 1, 2))
  with torch.no_grad():
    for i, layer in enumerate(layers):
      x = layer(x)
      if i in taps:
        maps.append(x.numpy().transpose(0, 2, 3, 1))
  return maps


LARGE = {
  'output': (1, 3, 6, 12, 16),
  # What `torchvision.models.segmentation` calls C0 .. C3, and the last layer.
  'first': (0, 2, 4, 7, 16),
}
SMALL = {'output': (0, 1, 3, 8, 12), 'first': (0, 1, 2, 4, 12)}


@pytest.mark.parametrize('size', [(65, 33), (64, 96)])
@pytest.mark.parametrize(
  ('name', 'taps', 'dilated', 'tap'),
  [
    ('mobilenet_v3_large', LARGE, False, 'output'),
    ('mobilenet_v3_large', LARGE, True, 'first'),
    ('mobilenet_v3_small', SMALL, False, 'output'),
    ('mobilenet_v3_small', SMALL, True, 'first'),
  ],
)
def test_mobilenet_v3(name, taps, dilated, tap, size):
  torchvision = torchvision_module.load()[1]
  model = getattr(torchvision.models, name)(weights=None, dilated=dilated)
  classes = {
    'mobilenet_v3_large': mobilenet_v3.MobileNetV3Large,
    'mobilenet_v3_small': mobilenet_v3.MobileNetV3Small,
  }
  encoder = classes[name](
    output_stride=16 if dilated else 32,
    dilation_rule='torchvision',
    tap=tap,
  )
  variables = cases.variables(encoder)
  torch_cases.assign(model, variables, mobilenet_name, 'classifier')
  x = 2 * cases.images(*size, seed=1)
  theirs = run(model.eval().features, x, taps[tap])
  cases.assert_equal(cases.features(encoder, variables, x), theirs, 1e-4)


@pytest.mark.parametrize('size', [(65, 33), (64, 96)])
def test_shufflenet_v2(size):
  torchvision = torchvision_module.load()[1]
  model = torchvision.models.shufflenet_v2_x1_0(weights=None)
  encoder = shufflenet_v2.ShuffleNetV2(output_stride=32, top_conv=True)
  variables = cases.variables(encoder)
  torch_cases.assign(model, variables, shufflenet_name, 'fc.')
  model.eval()
  stages = (
    *(model.conv1, model.maxpool),
    *(model.stage2, model.stage3, model.stage4, model.conv5),
  )
  x = cases.images(*size, seed=1)
  theirs = run(stages, x, (0, 1, 2, 3, 5))
  cases.assert_equal(cases.features(encoder, variables, x), theirs, 1e-4)


@pytest.mark.parametrize('size', [(65, 33), (64, 96)])
def test_ghostnet(size):
  """timm has the authors' gates and rounding, not Paddle's."""
  timm = pytest.importorskip('timm')
  model = timm.create_model('ghostnet_100', pretrained=False)
  encoder = ghostnet.GhostNet(
    output_stride=32, squeeze='divisible', gate='hard_sigmoid', top_conv=True
  )
  variables = cases.variables(encoder)
  torch_cases.assign(
    model, variables, ghostnet_name, ('conv_head', 'classifier')
  )
  model.eval()
  stem = lambda x: model.act1(model.bn1(model.conv_stem(x)))
  # Behind the stages of one block each that end at strides 2 .. 8, the one of
  # five blocks at 16, and the last layer.
  x = cases.images(*size, seed=1)
  theirs = run((stem, *model.blocks), x, (1, 3, 5, 7, 10))
  cases.assert_equal(cases.features(encoder, variables, x), theirs, 1e-4)
