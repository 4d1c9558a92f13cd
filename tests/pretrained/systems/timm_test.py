"""Features of timm's files equal timm's; skipped where timm is absent."""

import pytest

from deeplab.models.encoders import ghostnet
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import regnet
from deeplab.models.encoders import resnet
from deeplab.models.encoders import xception
from deeplab.pretrained.readers import safetensors
from tests import torchvision_module
from tests.pretrained import weight_cases

GHOSTNET = ghostnet.GhostNet(
  32, squeeze='divisible', gate='hard_sigmoid', top_conv=True
)


def stem_and_blocks(model):
  stem = lambda x: model.bn1(model.conv_stem(x))
  # GhostNet's activation is a module of its own.
  act = getattr(model, 'act1', lambda x: x)
  return (lambda x: act(stem(x)), *model.blocks)


def resnet_layers(model):
  stem = (model.conv1, model.bn1, model.act1, model.maxpool)
  return (*stem, model.layer1, model.layer2, model.layer3, model.layer4)


def regnet_layers(model):
  return (model.stem, model.s1, model.s2, model.s3, model.s4)


def mark(*values):
  return pytest.param(*values, marks=pytest.mark.full)


def saved(tmp_path, model):
  path = str(tmp_path / 'model.safetensors')
  state = {
    k: v.numpy() for k, v in model.state_dict().items() if v.is_floating_point()
  }
  safetensors.write_safetensors(path, state, {})
  return path


@pytest.mark.parametrize('size', [(65, 33), (64, 96)])
@pytest.mark.parametrize(
  ('name', 'encoder', 'layers', 'taps'),
  [
    # Behind the stages of one block each that end at strides 2 .. 8, the one
    # of five blocks at 16, and the last layer.
    ('ghostnet_100', GHOSTNET, stem_and_blocks, (1, 3, 5, 7, 10)),
    mark(
      'mobilenetv2_100',
      mobilenet_v2.MobileNetV2(32, bn_epsilon=1e-5),
      stem_and_blocks,
      (1, 2, 3, 5, 7),
    ),
    (
      'mobilenetv3_small_100',
      mobilenet_v3.MobileNetV3Small(32, bn_epsilon=1e-5),
      stem_and_blocks,
      (0, 1, 2, 4, 6),
    ),
    mark(
      'mobilenetv3_large_100',
      mobilenet_v3.MobileNetV3Large(32, bn_epsilon=1e-5),
      stem_and_blocks,
      (1, 2, 3, 5, 7),
    ),
    mark(
      'regnetx_004', regnet.RegNetX400MF(32), regnet_layers, (0, 1, 2, 3, 4)
    ),
    mark('resnet18', resnet.ResNet18(32), resnet_layers, (2, 4, 5, 6, 7)),
  ],
)
def test_encoders(tmp_path, name, encoder, layers, taps, size):
  torchvision_module.load()
  timm = pytest.importorskip('timm')
  model = weight_cases.torch_state(timm.create_model(name, pretrained=False))
  x = weight_cases.images(*size, seed=1)
  maps = weight_cases.torch_maps(layers(model), x, taps)
  system = 'torchvision' if name == 'resnet18' else 'timm'
  weight_cases.assert_features(saved(tmp_path, model), system, encoder, x, maps)


def xception_maps(model, x):
  """Returns timm's maps: each strided block's second, and the last.

  timm's own taps are one ReLU behind ours, which TF DeepLab reads in front of
  it.
  """
  torch = torchvision_module.load()[0]
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
    ('41', (65, 64)),
    mark('41', (70, 97)),
    mark('65', (65, 64)),
    mark('71', (65, 64)),
    mark('71', (70, 97)),
  ],
)
def test_xception(tmp_path, name, size):
  torchvision_module.load()
  timm = pytest.importorskip('timm')
  model = timm.create_model(f'xception{name}', pretrained=False)
  weight_cases.torch_state(model)
  encoder = getattr(xception, f'Xception{name}')(output_stride=32)
  x = weight_cases.images(*size, seed=1)
  maps = xception_maps(model, x)
  weight_cases.assert_features(saved(tmp_path, model), 'timm', encoder, x, maps)
