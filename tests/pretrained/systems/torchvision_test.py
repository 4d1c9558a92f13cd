"""Features and logits of torchvision's files equal torchvision's.

The project does not need torch: these tests run where torch and torchvision
are installed besides, and are skipped elsewhere.
"""

import jax
import numpy as np
import pytest

from deeplab.models import segmenter
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import regnet
from deeplab.models.encoders import resnet
from deeplab.models.encoders import shufflenet_v2
from deeplab.models.heads import deeplabv3
from deeplab.models.heads import fcn
from deeplab.models.heads import lraspp
from tests import torchvision_module
from tests.pretrained import weight_cases


def resnet_layers(model):
  stem = (model.conv1, model.bn1, model.relu, model.maxpool)
  return (*stem, model.layer1, model.layer2, model.layer3, model.layer4)


def regnet_layers(model):
  return (model.stem, *model.trunk_output.children())


def feature_layers(model):
  return model.features


def shufflenet_layers(model):
  stages = (model.stage2, model.stage3, model.stage4, model.conv5)
  return (model.conv1, model.maxpool, *stages)


RESNET = (resnet_layers, (2, 4, 5, 6, 7))
REGNET = (regnet_layers, (0, 1, 2, 3, 4))
LARGE = {
  'output': (feature_layers, (1, 3, 6, 12, 16)),
  # What `torchvision.models.segmentation` calls C0 .. C3, and the last layer.
  'first': (feature_layers, (0, 2, 4, 7, 16)),
}
SMALL = {
  'output': (feature_layers, (0, 1, 3, 8, 12)),
  'first': (feature_layers, (0, 1, 2, 4, 12)),
}


def saved(tmp_path, model):
  torch = torchvision_module.load()[0]
  path = str(tmp_path / 'model.pth')
  torch.save(model.state_dict(), path)
  return path


def check(tmp_path, name, encoder, taps, size, **arguments):
  """Asserts equal features of one of torchvision's classifiers."""
  torchvision = torchvision_module.load()[1]
  model = getattr(torchvision.models, name)(weights=None, **arguments)
  weight_cases.torch_state(model)
  x = weight_cases.images(*size, seed=1)
  maps = weight_cases.torch_maps(taps[0](model), x, taps[1])
  weight_cases.assert_features(
    saved(tmp_path, model), 'torchvision', encoder, x, maps
  )


def mark(*values):
  return pytest.param(*values, marks=pytest.mark.full)


SIZES = pytest.mark.parametrize('size', [(65, 97), (64, 50)])


@SIZES
@pytest.mark.parametrize(
  ('name', 'encoder', 'taps'),
  [
    ('resnet18', resnet.ResNet18(32), RESNET),
    mark('resnet34', resnet.ResNet34(32), RESNET),
    mark('resnet50', resnet.ResNet50(32), RESNET),
    mark('resnet101', resnet.ResNet101(32), RESNET),
    # torchvision's widths are others in this one alone.
    (
      'regnet_x_400mf',
      regnet.RegNetX400MF(32, widths=(32, 64, 160, 400)),
      REGNET,
    ),
    mark('regnet_x_800mf', regnet.RegNetX800MF(32), REGNET),
    mark('regnet_x_1_6gf', regnet.RegNetX1600MF(32), REGNET),
    mark('regnet_x_3_2gf', regnet.RegNetX3200MF(32), REGNET),
    (
      'mobilenet_v2',
      mobilenet_v2.MobileNetV2(32, bn_epsilon=1e-5, top_conv=True),
      (feature_layers, (1, 3, 6, 13, 18)),
    ),
    mark(
      'mobilenet_v2',
      mobilenet_v2.MobileNetV2(32, bn_epsilon=1e-5),
      (feature_layers, (1, 3, 6, 13, 17)),
    ),
    (
      'shufflenet_v2_x1_0',
      shufflenet_v2.ShuffleNetV2(32, top_conv=True),
      (shufflenet_layers, (0, 1, 2, 3, 5)),
    ),
    mark(
      'shufflenet_v2_x1_0',
      shufflenet_v2.ShuffleNetV2(32),
      (shufflenet_layers, (0, 1, 2, 3, 4)),
    ),
  ],
)
def test_encoders(tmp_path, name, encoder, taps, size):
  check(tmp_path, name, encoder, taps, size)


@SIZES
@pytest.mark.parametrize(
  ('name', 'taps', 'dilated', 'tap'),
  [
    ('Large', LARGE, False, 'output'),
    ('Large', LARGE, True, 'first'),
    ('Small', SMALL, False, 'output'),
    ('Small', SMALL, True, 'first'),
  ],
)
def test_mobilenet_v3(tmp_path, name, taps, dilated, tap, size):
  encoder = getattr(mobilenet_v3, f'MobileNetV3{name}')(
    output_stride=16 if dilated else 32,
    dilation_rule='torchvision',
    tap=tap,
  )
  name = f'mobilenet_v3_{name.lower()}'
  check(tmp_path, name, encoder, taps[tap], size, dilated=dilated)


@pytest.mark.full
@SIZES
@pytest.mark.parametrize(
  ('output_stride', 'dilated'),
  [
    (16, (False, False, True)),
    (8, (False, True, True)),
    (4, (True, True, True)),
  ],
)
def test_atrous_resnet(tmp_path, output_stride, dilated, size):
  encoder = resnet.ResNet50(output_stride)
  check(
    *(tmp_path, 'resnet50', encoder, RESNET, size),
    replace_stride_with_dilation=dilated,
  )


MOBILENET = mobilenet_v3.MobileNetV3Large(
  16, dilation_rule='torchvision', tap='first'
)
DEEPLAB = {'rates': (12, 24, 36), 'refine': 'dense', 'aspp_dropout': 0.5}
AUXILIARY = fcn.FCN(num_classes=5, stage=3, channels=256)


def network(encoder, head, auxiliary=None):
  return segmenter.Segmenter(encoder, head, auxiliary, num_classes=5)


def resnet_network(cls, head, auxiliary=AUXILIARY):
  return network(cls(8), head, auxiliary)


@pytest.mark.parametrize('size', [(65, 81), (64, 50)])
@pytest.mark.parametrize(
  ('name', 'model'),
  [
    (
      'lraspp_mobilenet_v3_large',
      network(MOBILENET, lraspp.LRASPP(num_classes=5)),
    ),
    (
      'deeplabv3_mobilenet_v3_large',
      network(
        MOBILENET,
        deeplabv3.DeepLabV3(num_classes=5, **DEEPLAB),
        fcn.FCN(num_classes=5, stage=2, channels=10),
      ),
    ),
    mark(
      'fcn_resnet50',
      resnet_network(
        resnet.ResNet50, fcn.FCN(num_classes=5, stage=4, channels=512)
      ),
    ),
    mark(
      'fcn_resnet101',
      resnet_network(
        resnet.ResNet101, fcn.FCN(num_classes=5, stage=4, channels=512), None
      ),
    ),
    mark(
      'deeplabv3_resnet50',
      resnet_network(
        resnet.ResNet50, deeplabv3.DeepLabV3(num_classes=5, **DEEPLAB)
      ),
    ),
    mark(
      'deeplabv3_resnet101',
      resnet_network(
        resnet.ResNet101, deeplabv3.DeepLabV3(num_classes=5, **DEEPLAB)
      ),
    ),
  ],
)
def test_networks(tmp_path, name, model, size):
  torch, torchvision = torchvision_module.load()
  arguments = {} if name.startswith('lraspp') else {'aux_loss': True}
  theirs = getattr(torchvision.models.segmentation, name)(
    weights=None, weights_backbone=None, num_classes=5, **arguments
  )
  weight_cases.torch_state(theirs)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), np.zeros((1, 65, 65, 3), np.float32))
  )
  start = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), shapes)
  path = saved(tmp_path, theirs)
  variables = weight_cases.imported(path, 'torchvision', model, start)
  x = weight_cases.images(*size, seed=1)
  with torch.no_grad():
    maps = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
  pairs = [(maps['out'], lambda v, x: model.apply(v, x).logits)]
  if model.auxiliary is not None:
    pairs.append((maps['aux'], lambda v, x: auxiliary(model, v, x)))
  for expected, apply in pairs:
    expected = expected.numpy().transpose(0, 2, 3, 1)
    actual = jax.jit(apply)(variables, x)
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    print(f'{name} {size}: {error:.1e}')
    assert expected.std() > 1e-2
    assert error < 1e-4


def auxiliary(model, variables, x):
  """Returns the auxiliary logits in evaluation mode, resized to the images."""

  def run(module, x):
    features = module.encoder(x, False)
    return module._apply_head(
      module.auxiliary, features, False, None, 1, x.shape[1:3]
    )

  return model.apply(variables, x, method=run)[0]
