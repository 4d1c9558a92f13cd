"""Where weights come from."""

import json

import pytest

from configs import common
from deeplab import workdir as workdir_lib
from export import source as source_lib


@pytest.mark.parametrize('lost', ['all', 'one field'])
def test_a_run_of_an_older_version(tmp_path, lost):
  config = json.loads(common.base().to_json_best_effort())
  if lost == 'all':
    del config['quantization']
  else:
    del config['quantization']['calibration']['equalize']
  path = workdir_lib.config_path(str(tmp_path))
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(config, f)
  with pytest.raises(ValueError, match=r'calibration\.equalize": an older'):
    source_lib.from_workdir(str(tmp_path), 'latest', None)


def test_no_run(tmp_path):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    source_lib.from_workdir(str(tmp_path), 'latest', None)
