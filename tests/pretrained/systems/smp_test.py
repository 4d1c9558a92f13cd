"""Files of segmentation_models.pytorch find their network, and equal it."""

import warnings

import pytest

from tests import torchvision_module
from tests.pretrained import weight_cases

PAGE = 'configs/folder_torch.py:smp'

# Class, encoder, our page, other fields; and what `names_digest` says of the
# original with 5 classes.
NETWORKS = {
  'v3plus_mnv2': ('DeepLabV3Plus', 'mobilenet_v2', 'v3plus,mnv2,os16', {}),
  'v3plus_r18': (
    *('DeepLabV3Plus', 'resnet18', 'v3plus,r34,os16'),
    {'encoder__name': 'resnet_18', 'encoder__depths': (2, 2, 2, 2)},
  ),
  'v3plus_r34': ('DeepLabV3Plus', 'resnet34', 'v3plus,r34,os16', {}),
  'v3plus_r50': ('DeepLabV3Plus', 'resnet50', 'v3plus,r50,os16', {}),
  'v3plus_r101': ('DeepLabV3Plus', 'resnet101', 'v3plus,r101,os16', {}),
  'v3_mnv2': ('DeepLabV3', 'mobilenet_v2', 'v3,mnv2,os8', {}),
  'v3_r34': ('DeepLabV3', 'resnet34', 'v3,r34,os8', {}),
  'v3_r50': ('DeepLabV3', 'resnet50', 'v3,r50,os8', {}),
}
KNOWN = {
  'v3plus_mnv2': (312, '070efd472ef5b8d2'),
  'v3plus_r18': (152, 'de401f900202c49b'),
  'v3plus_r34': (232, 'a98dab43f9b174d2'),
  'v3plus_r50': (317, '53741c1a991d9a70'),
  'v3plus_r101': (572, '1b78ae25b6465567'),
  'v3_mnv2': (297, '46577038d45e0bb5'),
  'v3_r34': (217, 'cc00b62e3d08702f'),
  'v3_r50': (302, 'e3d0f607ac3f43e5'),
}


@pytest.fixture
def smp():
  torchvision_module.load()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return pytest.importorskip('segmentation_models_pytorch')


def original(smp, name, **arguments):
  cls, encoder, _, _ = NETWORKS[name]
  return weight_cases.torch_state(
    getattr(smp, cls)(encoder, encoder_weights=None, classes=5, **arguments)
  )


@pytest.mark.parametrize(
  'name',
  weight_cases.mark_full(NETWORKS, quick=('v3plus_mnv2', 'v3plus_r18')),
)
def test_the_network_is_found(tmp_path, name):
  _, _, page, fields = NETWORKS[name]
  weight_cases.assert_network_is_found(
    *(tmp_path, 'smp', f'{PAGE},{page}', KNOWN[name], 5, fields)
  )


@pytest.mark.parametrize(
  ('name', 'arguments', 'file'),
  [
    ('v3plus_mnv2', {}, 'model.pth'),
    ('v3plus_r34', {}, 'model.pth'),
    pytest.param('v3_mnv2', {}, 'model.pth', marks=pytest.mark.full),
    pytest.param('v3_r50', {}, 'model.pth', marks=pytest.mark.full),
    pytest.param('v3plus_r50', {}, 'model.pth', marks=pytest.mark.full),
    pytest.param('v3_r34', {}, 'model.pth', marks=pytest.mark.full),
    (
      'v3plus_mnv2',
      {'encoder_output_stride': 8, 'decoder_channels': 64},
      'mine_os8.pth',
    ),
    (
      'v3_mnv2',
      {'encoder_output_stride': 16, 'decoder_aspp_separable': True},
      'mine_os16.pth',
    ),
  ],
)
def test_logits(tmp_path, smp, name, arguments, file):
  """At multiples of 16: it takes no other size."""
  module = original(smp, name, **arguments)
  if not arguments:
    assert weight_cases.names_digest(module.state_dict()) == KNOWN[name]
  path = str(tmp_path / file)
  torchvision_module.load()[0].save(module.state_dict(), path)
  weight_cases.assert_logits(
    path, weight_cases.torch_forward(module), [(64, 96), (80, 48)]
  )
