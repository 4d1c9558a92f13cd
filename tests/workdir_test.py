"""What a work directory holds."""

import json

import pytest

from configs import common
from deeplab import workdir as workdir_lib


@pytest.mark.parametrize(
  ('lost', 'named'),
  [
    ('quantization', 'quantization.wide_layers'),
    ('quantization.wide_layers', 'quantization.wide_layers'),
    ('quantization.calibration.equalize', 'quantization.calibration.equalize'),
    ('model.resize_ratio', 'model.resize_ratio'),
  ],
)
def test_a_run_of_an_older_version(tmp_path, lost, named):
  config = json.loads(common.default_config().to_json_best_effort())
  path = workdir_lib.config_path(str(tmp_path))
  *sections, field = lost.split('.')
  section = config
  for name in sections:
    section = section[name]
  del section[field]
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(config, f)
  with pytest.raises(ValueError, match=f'has no "{named}": an older version'):
    workdir_lib.read_config(str(tmp_path))
