"""Files of jfzhang95/pytorch-deeplab-xception find their network; equal it."""

import pytest

from tests import torchvision_module
from tests.pretrained import weight_cases

PAGE = 'configs/folder_torch.py:jfzhang'

# What `names_digest` says of the original, without dropout in its decoder, with
# 5 classes; of a MobileNetV2 without the parts that are there twice.
KNOWN = {
  'mnv2': (302, '0a199b0e845924f0'),
  'r101': (567, 'cf661c5c55a86ed7'),
}


def tensors_once(state):
  return {
    name: x for name, x in state.items() if '_level_features.' not in name
  }


@pytest.mark.parametrize(
  'encoder', weight_cases.mark_full(KNOWN, quick=('mnv2',))
)
def test_the_network_is_found(tmp_path, encoder):
  page = f'{PAGE},{encoder},os16'
  weight_cases.assert_network_is_found(
    *(tmp_path, 'jfzhang', page, KNOWN[encoder], 5, {})
  )


@pytest.mark.parametrize(
  ('encoder', 'output_stride', 'dropout', 'file'),
  [
    ('mnv2', 16, True, 'model_best.pth.tar'),
    ('mnv2', 8, False, 'mine_os8.pth.tar'),
    pytest.param(
      *('r101', 16, True, 'model_best.pth.tar'), marks=pytest.mark.full
    ),
    pytest.param(
      *('r101', 8, True, 'mine_os8.pth.tar'), marks=pytest.mark.full
    ),
  ],
)
def test_logits(tmp_path, encoder, output_stride, dropout, file):
  torch = torchvision_module.load()[0]
  from tests.pretrained.systems import torch_repositories

  module = weight_cases.torch_state(
    torch_repositories.Jfzhang(encoder, output_stride, 5, dropout)
  )
  state = module.state_dict()
  if not dropout:
    assert weight_cases.names_digest(tensors_once(state)) == KNOWN[encoder]
  path = str(tmp_path / file)
  torch.save({'epoch': 1, 'state_dict': state}, path)
  weight_cases.assert_logits(
    path, weight_cases.torch_forward(module), [(65, 97), (64, 50)]
  )
