import json

import numpy as np
import pytest

from deeplab.pretrained import resolve
from deeplab.pretrained.readers import safetensors


def read(tmp_path, config):
  """Reads a file of weights whose metadata holds this text as a config."""
  path = str(tmp_path / 'a.safetensors')
  safetensors.write_safetensors(path, {'x': np.zeros(1)}, {'config': config})
  return resolve.read_weights(resolve.resolve_init_from(path))


def stored(section='data', **fields):
  config: dict = {
    'data': {'mean': [1.5, 2, 3], 'std': [1, 1, 1]},
    'model': {
      'encoder': {'name': 'mobilenet_v2'},
      'head': {'name': 'fcn', 'bn_epsilon': 0.001, 'align_corners': True},
      'output_stride': 16,
    },
  }
  config[section].update(fields)
  return json.dumps(config)


def test_requirements_of_the_run_that_wrote_a_file(tmp_path):
  config = stored(mean=[1, 2, 3], std=[4, 5, 6.5], depth=16)
  requirements = read(tmp_path, config).requirements
  assert requirements.normalization == ((1, 2, 3), (4, 5, 6.5))
  assert requirements.bit_depth == 16
  assert requirements.model == {
    'encoder.name': 'mobilenet_v2',
    'head.name': 'fcn',
    'head.bn_epsilon': 0.001,
    'head.align_corners': True,
  }


@pytest.mark.parametrize(
  'config',
  [
    *('{"model": ', '[]', '1', 'null', '{}', '[' * 20000, '"x"'),
    *(stored(mean=None), stored(mean=1), stored(mean=['a', 'b', 'c'])),
    *(stored(mean=[1, 2]), stored(std=[1, 1, 0]), stored(std=[1, 1, -1])),
    *(stored(mean=[1, 2, float('nan')]), stored('model', encoder=[1])),
    *(stored('model', encoder=None), stored('model', head={})),
    stored(mean=[1, 2, 10**400]),
  ],
)
def test_a_damaged_config_is_one_sentence(tmp_path, config):
  with pytest.raises(
    ValueError,
    match=r'a\.safetensors: its metadata holds a damaged config of the run .*; '
    r'write it again with python -m deeplab\.pretrained\.save$',
  ):
    read(tmp_path, config)
