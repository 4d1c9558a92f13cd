"""PaddlePaddle's files, pickled here as `paddle.save` pickles them."""

import os
import pickle

import numpy as np
import pytest

from deeplab.pretrained.readers import paddle

KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)


class Variable:
  """A parameter of PaddlePaddle 2.1 and later: a pair of name and array."""

  def __init__(self, name, value):
    self.pair = (name, value)

  def __reduce__(self):
    return tuple, (self.pair,)


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('pairs', [False, True])
def test_arrays_are_read(tmp_path, protocol, pairs):
  arrays = {
    'conv.weight': KERNEL,
    'transposed': KERNEL.T,
    'half': KERNEL.astype(np.float16),
    'count': np.array(7, np.int64),
    'empty': np.zeros((0, 3), np.float32),
    'big_endian': KERNEL.astype('>f8'),
  }
  saved = {
    name: Variable(f'{name}_0', value) if pairs else value
    for name, value in arrays.items()
  }
  saved['StructuredToParameterName@@'] = {'conv.weight': 'conv2d_0.w_0'}
  path = tmp_path / 'a.pdparams'
  path.write_bytes(pickle.dumps(saved, protocol))
  read = paddle.read_pdparams(str(path))
  assert list(read) == list(arrays)
  for name, value in arrays.items():
    assert read[name].dtype == value.dtype
    np.testing.assert_array_equal(read[name], value)


class Evil:
  def __init__(self, folder):
    self.folder = folder

  def __reduce__(self):
    return os.mkdir, (self.folder,)


def test_a_pickled_program_is_not_run(tmp_path):
  folder = str(tmp_path / 'made')
  path = tmp_path / 'a.pdparams'
  path.write_bytes(pickle.dumps({'w': KERNEL, 'x': Evil(folder)}))
  assert list(paddle.read_pdparams(str(path))) == ['w']
  assert not os.path.exists(folder)


@pytest.mark.parametrize(
  'value',
  [
    {},
    [KERNEL],
    {'w': 1.5},
    {'w': np.array(['text'])},
    {'w': np.array([{}], object)},
  ],
)
def test_files_without_arrays_fail(tmp_path, value):
  path = tmp_path / 'a.pdparams'
  path.write_bytes(pickle.dumps(value))
  with pytest.raises(ValueError, match=r'a\.pdparams is not a whole'):
    paddle.read_pdparams(str(path))


@pytest.mark.parametrize('protocol', [2, 4])
def test_a_truncated_file_fails(tmp_path, protocol):
  whole = pickle.dumps({'w': KERNEL}, protocol)
  path = tmp_path / 'a.pdparams'
  for length in range(0, len(whole), 3):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r'a\.pdparams is not a whole'):
      paddle.read_pdparams(str(path))


def test_a_shape_that_its_numbers_do_not_fill_fails(tmp_path):
  path = tmp_path / 'a.pdparams'
  content = pickle.dumps({'w': KERNEL}, 2)
  path.write_bytes(content.replace(b'K\x03K\x04', b'K\x03K\x05'))
  with pytest.raises(ValueError, match='fewer or more numbers than its shape'):
    paddle.read_pdparams(str(path))


def test_one_array_under_many_names_has_a_bound(tmp_path):
  path = tmp_path / 'a.pdparams'
  value = np.zeros(1 << 18, np.float32)
  path.write_bytes(pickle.dumps({str(i): value for i in range(30)}))
  with pytest.raises(ValueError, match='more than 20 times its own size'):
    paddle.read_pdparams(str(path))
