"""PaddleSeg's .pdparams files find their network, and equal it."""

import pytest

from tests.models import paddle_cases
from tests.models import paddleseg_test
from tests.pretrained import weight_cases

PAGE = 'configs/cityscapes_mobileseg.py'

# PaddleSeg's encoders by the variant of our page; and what `names_digest` says
# of the original with 19 classes.
NETWORKS = {
  'mnv2': 'mobilenet_v2',
  'mnv3': 'mobilenet_v3_large',
  'shufflenet': 'shufflenet_v2',
  'ghostnet': 'ghostnet',
  'hrnet': 'lite_hrnet_18',
}
KNOWN = {
  'mnv2': (391, '0aa4fa4e7cd2467b'),
  'mnv3': (393, '724629af957d5ca7'),
  'shufflenet': (406, '8345e87902b56459'),
  'ghostnet': (554, '3ac934c255abf7be'),
  'hrnet': (1343, 'c2873391e9bd25d1'),
}


@pytest.mark.parametrize(
  'name', weight_cases.mark_full(NETWORKS, quick=('mnv2', 'ghostnet'))
)
def test_the_network_is_found(tmp_path, name):
  weight_cases.assert_network_is_found(
    *(tmp_path, 'paddleseg', f'{PAGE}:{name}', KNOWN[name], 19, {})
  )


@pytest.mark.parametrize(
  'name', weight_cases.mark_full(NETWORKS, quick=('ghostnet',))
)
def test_logits(tmp_path, name):
  path = str(tmp_path / 'model.pdparams')
  # Lite-HRNet takes multiples of 32 alone.
  sizes = [(64, 96), (96, 64) if name == 'hrnet' else (65, 97)]
  images = {
    f'images{i}': weight_cases.images(*size, seed=1).transpose(0, 3, 1, 2)
    for i, size in enumerate(sizes)
  }
  request = paddleseg_test.request_of(NETWORKS[name]) | {'save': path}
  maps = paddle_cases.run(request, images, tmp_path)
  logits = {y.shape[1:3]: y.transpose(0, 3, 1, 2) for y in maps}
  weight_cases.assert_logits(path, lambda x: logits[x.shape[2:]], sizes)
