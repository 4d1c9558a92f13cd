"""Masks in MATLAB files; damaged ones used to end the process in SciPy."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io

from deeplab.data.formats import matlab

LABEL = np.arange(48, dtype=np.uint8).reshape(6, 8)


def saved(value, **options):
  file = io.BytesIO()
  scipy.io.savemat(file, value, **options)
  return file.getvalue()


def write(path, content):
  path = path / 'a.mat'
  path.write_bytes(content)
  return path


@pytest.mark.parametrize('compressed', [False, True])
def test_masks_and_fields_of_structures(tmp_path, compressed):
  cells = np.empty((2, 1), object)
  cells[:] = [[np.ones((2, 2))], [np.zeros((0, 0))]]
  structure = {
    'Boundaries': cells,
    'Segmentation': LABEL,
    'Name': 'of the mask',
  }
  content = saved(
    {'LabelMap': LABEL.astype(np.uint16), 'GTcls': structure},
    do_compression=compressed,
  )
  path = write(tmp_path, content)
  mask = matlab.read_mask(path, 'GTcls', 'Segmentation')
  assert mask.dtype == np.uint8
  assert mask.tolist() == LABEL.tolist()
  assert matlab.read_mask(path, 'LabelMap').tolist() == LABEL.tolist()


@pytest.mark.parametrize(
  'value', [np.ones((2, 2)), np.ones((2, 2, 2), np.uint8), 'text', [1j]]
)
def test_other_variables_fail(tmp_path, value):
  path = write(tmp_path, saved({'LabelMap': value}))
  with pytest.raises(ValueError, match=r'LabelMap is .* not a mask'):
    matlab.read_mask(path, 'LabelMap')
  with pytest.raises(ValueError, match='GTcls'):
    matlab.read_mask(path, 'GTcls', 'Segmentation')


def test_unknown_types_of_elements_fail(tmp_path):
  """SciPy looks the type up in a table of 20 without a check of its end."""
  content = bytearray(saved({'LabelMap': LABEL}))
  element = content.index(struct.pack('<II', 2, 48))  # uint8, 48 bytes
  content[element : element + 4] = struct.pack('<I', 0xFE04)
  path = write(tmp_path, content)
  with pytest.raises(ValueError, match='element of the unknown type 65028'):
    matlab.read_mask(path, 'LabelMap')


@pytest.mark.parametrize('order', '<>')
def test_every_cut_fails(tmp_path, order):
  content = saved({'LabelMap': LABEL.astype(f'{order}u2')})
  for length in range(0, len(content) - 1, 5):
    with pytest.raises(ValueError):
      matlab.read_mask(write(tmp_path, content[:length]), 'LabelMap')


def test_bombs_fail(tmp_path, monkeypatch):
  monkeypatch.setattr(matlab, '_MAX_BYTES', 1 << 20)
  packed = zlib.compress(bytes(2 << 20))
  head = saved({})[:128]
  content = head + struct.pack('<II', 15, len(packed)) + packed
  with pytest.raises(ValueError, match='more than 1 MiB'):
    matlab.read_mask(write(tmp_path, content), 'LabelMap')
