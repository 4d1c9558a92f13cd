import numpy as np
import pytest

from deeplab.pretrained.readers import dispatch
from deeplab.pretrained.readers import safetensors


def test_the_suffix_chooses_the_reader(tmp_path):
  path = str(tmp_path / 'a.safetensors')
  safetensors.write_safetensors(path, {'x': np.float32([1])}, {})
  assert dispatch.read_tensors(path)['x'].tolist() == [1]
  other = tmp_path / 'a.pth'
  other.write_bytes(b'no pickle')
  with pytest.raises(ValueError, match=r'a\.pth is not a whole \.pth'):
    dispatch.read_tensors(str(other))


def test_unknown_files_fail(tmp_path):
  path = tmp_path / 'a.npz'
  with pytest.raises(FileNotFoundError, match=r'a\.npz does not exist'):
    dispatch.read_tensors(str(path))
  path.write_bytes(b'')
  with pytest.raises(ValueError, match=r'must end in one of .*safetensors'):
    dispatch.read_tensors(str(path))
