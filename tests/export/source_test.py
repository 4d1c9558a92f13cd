"""Where weights come from."""

import pytest

from export import source as source_lib


def test_no_run(tmp_path):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    source_lib.load_from_workdir(str(tmp_path), 'latest', None)
