"""Files of VainF/DeepLabV3Plus-Pytorch find their network, and equal it."""

import pytest

from tests import torchvision_module
from tests.pretrained import weight_cases

PAGE = 'configs/folder_torch.py:vainf'
SEPARABLE = {'head__separable': True, 'head__depthwise_norm': False}

# Encoder, DeepLabV3+, separable; and what `names_digest` says of the original
# with 5 classes.
NETWORKS = {
  'v3plus_mnv2': ('mnv2', True, False),
  'v3_mnv2': ('mnv2', False, False),
  'v3plus_r50': ('r50', True, False),
  'v3_r101': ('r101', False, False),
  'v3plus_mnv2_separable': ('mnv2', True, True),
  'v3_mnv2_separable': ('mnv2', False, True),
}
KNOWN = {
  'v3plus_mnv2': (297, '0cb76af55b173046'),
  'v3_mnv2': (292, '379701c582e02283'),
  'v3plus_r50': (307, '61a07208bc33bf77'),
  'v3_r101': (557, '65ec1bcd8fe353f5'),
  'v3plus_mnv2_separable': (301, 'a6ef10aa3246dbb8'),
  'v3_mnv2_separable': (296, '7b10aae33a5f30d8'),
}


@pytest.mark.parametrize(
  'name',
  weight_cases.mark_full(NETWORKS, quick=('v3plus_mnv2_separable', 'v3_mnv2')),
)
def test_the_network_is_found(tmp_path, name):
  encoder, plus, separable = NETWORKS[name]
  fields = {}
  if separable:
    inner = {'head__decoder_separable': True}
    fields = SEPARABLE | (inner if plus else {'head__refine': 'separable'})
  page = f'{PAGE},{"v3plus" if plus else "v3"},{encoder},os16'
  weight_cases.assert_network_is_found(
    *(tmp_path, 'vainf', page, KNOWN[name], 5, fields)
  )


@pytest.mark.parametrize(
  ('name', 'output_stride', 'file'),
  [
    ('v3plus_mnv2', 16, 'best_deeplabv3plus_mobilenet_voc_os16.pth'),
    ('v3plus_mnv2', 8, 'best_deeplabv3plus_mobilenet_voc_os8.pth'),
    ('v3_mnv2_separable', 16, 'model.pth'),
    ('v3plus_mnv2_separable', 16, 'model.pth'),
    pytest.param('v3_mnv2', 16, 'model.pth', marks=pytest.mark.full),
    pytest.param('v3plus_r50', 16, 'model.pth', marks=pytest.mark.full),
    pytest.param('v3_r101', 8, 'mine_os8.pth', marks=pytest.mark.full),
  ],
)
def test_logits(tmp_path, name, output_stride, file):
  torch = torchvision_module.load()[0]
  from tests.pretrained.systems import torch_repositories

  encoder, plus, separable = NETWORKS[name]
  module = weight_cases.torch_state(
    torch_repositories.VainF(encoder, plus, output_stride, 5, separable)
  )
  assert weight_cases.names_digest(module.state_dict()) == KNOWN[name]
  path = str(tmp_path / file)
  torch.save({'cur_itrs': 1, 'model_state': module.state_dict()}, path)
  weight_cases.assert_logits(
    path, weight_cases.torch_forward(module), [(65, 97), (64, 50)]
  )
