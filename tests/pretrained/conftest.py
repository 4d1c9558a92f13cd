"""The folder of published models that some tests import."""

import pytest

from tests.shared import SHARED


@pytest.fixture(scope='session')
def published():
  """The folder of published models and of photographs to run them on.

  Tests that need it skip without it.
  """
  if not (SHARED / 'models').is_dir():
    pytest.skip(f'no published models at {SHARED}')
  return SHARED
