"""The progress bar of a preparation."""

import io
import sys

import pytest

from deeplab.data import datasets


@pytest.mark.usefixtures('root')
@pytest.mark.parametrize('terminal', [True, False])
def test_a_progress_bar_is_shown_only_on_a_terminal(
  config, monkeypatch, terminal
):
  stream = io.StringIO()
  stream.isatty = lambda: terminal
  monkeypatch.setattr(sys, 'stderr', stream)
  datasets.Dataset(config.data).prepare('train')
  shown = stream.getvalue()
  assert ('Preparing folder train: 100%' in shown) == terminal
  assert ('| 5/5 [' in shown) == terminal
  assert ('images/s]' in shown) == terminal
