"""Where the published models lie that some tests import."""

import pathlib

import pytest

SHARED = pathlib.Path(__file__).resolve().parents[3] / 'shared'


@pytest.fixture(scope='session')
def published():
  """The folder of published models and of photographs to run them on.

  Tests that need it skip without it.
  """
  if not (SHARED / 'models').is_dir():
    pytest.skip(f'no published models at {SHARED}')
  return SHARED
