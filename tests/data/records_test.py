"""The prepared record: labels come back, and progress shows."""

import io
import sys

import numpy as np
import pytest

from deeplab.data import raw_files
from deeplab.data import records
from deeplab.data import splits

IDS = np.array([[0, 20, 255], [20, 0, 255]], np.uint8)


def test_encoded_labels_decode_to_themselves():
  data = raw_files.encode_png(IDS)
  assert records.decode_label(data).tolist() == IDS.tolist()
  with pytest.raises(ValueError, match='a prepared example does not decode'):
    records.decode_label(b'no image')


@pytest.mark.usefixtures('root')
@pytest.mark.parametrize('terminal', [True, False])
def test_a_bar_shows_progress_on_a_terminal_alone(
  config, monkeypatch, terminal
):
  stream = io.StringIO()
  stream.isatty = lambda: terminal
  monkeypatch.setattr(sys, 'stderr', stream)
  splits.prepare(config, ['train'])
  shown = stream.getvalue()
  assert ('Preparing folder train: 100%' in shown) == terminal
  assert ('| 5/5 [' in shown) == terminal
  assert ('images/s]' in shown) == terminal
