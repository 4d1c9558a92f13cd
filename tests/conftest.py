"""Settings of all tests, and one small training run that many tests share."""

import os
import shutil
import tempfile

# Before JAX starts: two CPU devices, so that multi-device code is tested. Tests
# and the commands they start share compiled functions, with low optimization.
if 'PYTEST_XDIST_WORKER' not in os.environ:  # workers inherit all of it
  os.environ['XLA_FLAGS'] = ' '.join(
    (
      os.environ.get('XLA_FLAGS', ''),
      '--xla_force_host_platform_device_count=2',
      '--xla_backend_optimization_level=0',
    )
  )
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='xla')
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.5'
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import pytest

from tests import runs


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """Folder of prepared data for the whole test session."""
  return str(tmp_path_factory.mktemp('prepared'))


@pytest.fixture(scope='session')
def smoke_run(tmp_path_factory, data_dir):
  """A finished run of configs/shapes_mnv2.py:smoke, a `runs.Run`."""
  return runs.smoke(str(tmp_path_factory.mktemp('smoke') / 'run'), data_dir)


def pytest_sessionfinish():
  """Deletes the compilation cache of the session."""
  if 'PYTEST_XDIST_WORKER' not in os.environ:
    shutil.rmtree(os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
