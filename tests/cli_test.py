import logging

import pytest

from deeplab import cli


@pytest.mark.parametrize(
  ('path', 'level', 'shown'),
  [
    ('x/orbax/checkpoint/manager.py', logging.WARNING, False),
    ('x/orbax/checkpoint/manager.py', logging.ERROR, True),
    # JAX warns about a GPU that it cannot use.
    ('x/jax/_src/xla_bridge.py', logging.WARNING, True),
    ('x/jax/_src/xla_bridge.py', logging.INFO, False),
    ('x/deeplab/train.py', logging.INFO, True),
  ],
)
def test_library_logs_are_filtered_by_level(path, level, shown):
  record = logging.LogRecord('absl', level, path, 1, 'text', None, None)
  assert cli._filter_library_logs(record) == shown
