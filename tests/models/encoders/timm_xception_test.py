"""Features equal timm's aligned Xceptions, whose weights are TF DeepLab's.

Under a strict mapping of random weights and statistics. timm pads as we do and
has TF's BatchNorm epsilon. Its taps are one ReLU behind ours, which TF DeepLab
reads in front of it.
"""

import pytest

from deeplab.models.encoders import xception
from tests import torchvision_module
from tests.models.encoders import cases
from tests.models.encoders import torch_cases

ENCODERS = {
  'xception41': xception.Xception41,
  'xception65': xception.Xception65,
  'xception71': xception.Xception71,
}


def module_name(path, params):
  """Returns timm's module for a flax path."""
  modules, kind = path[:-1], path[-1]
  layer = torch_cases.numbered('conv', 'bn', kind)
  flow, index = modules[0].split('_')
  if flow == 'stem':
    return f'stem.{int(index) - 1}.{layer}'
  flows = ('entry', 'middle', 'exit')
  before = sum(name.startswith(flows[: flows.index(flow)]) for name in params)
  block = f'blocks.{before + int(index) - 1}'
  if modules[1] == 'shortcut':
    return f'{block}.shortcut.{layer}'
  number = modules[1].removeprefix('separable_')
  half = {'depthwise': 'dw', 'pointwise': 'pw'}[modules[2]]
  return f'{block}.stack.conv{number}.{layer}_{half}'


def features(model, x):
  """Returns timm's maps: each strided block's second, and the last."""
  import torch

  maps = []
  for block in model.blocks:
    if tuple(block.stack.conv3.conv_dw.stride) == (2, 2):
      # The ReLU behind it overwrites its output.
      block.stack.conv2.register_forward_hook(
        lambda module, args, y: maps.append(y.clone())
      )
  with torch.no_grad():
    maps.append(
      model.forward_features(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    )
  return [y.numpy().transpose(0, 2, 3, 1) for y in maps]


@pytest.mark.parametrize(
  ('name', 'size'),
  [
    ('xception41', (65, 64)),
    pytest.param('xception41', (70, 97), marks=pytest.mark.full),
    pytest.param('xception65', (65, 64), marks=pytest.mark.full),
    pytest.param('xception71', (65, 64), marks=pytest.mark.full),
    pytest.param('xception71', (70, 97), marks=pytest.mark.full),
  ],
)
def test_features_equal_timm(name, size):
  torchvision_module.load()
  timm = pytest.importorskip('timm')
  model = timm.create_model(name, pretrained=False)
  encoder = ENCODERS[name](output_stride=32)
  variables = cases.variables(encoder)
  torch_cases.assign(model, variables, module_name, 'head.')
  x = cases.images(*size, seed=1)
  theirs = features(model.eval(), x)
  cases.assert_equal(cases.features(encoder, variables, x), theirs, 1e-4)
