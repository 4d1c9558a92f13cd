"""The format of a weight file is found by its content."""

import io
import pickle
import shutil
import zipfile

import h5py
import numpy as np
import onnx
from onnx import numpy_helper
import pytest

from deeplab.pretrained.readers import dispatch
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.readers import tf_checkpoint

VALUE = np.float32([[1, 2], [3, 4]])


def write_safetensors(path):
  safetensors.write_safetensors(str(path), {'x': VALUE}, {})


def write_npz(path):
  np.savez(path, x=VALUE)


def write_hdf5(path):
  with h5py.File(path, 'w') as f:
    f['layers/dense/vars/0'] = VALUE
    f['layers/dense/vars'].attrs['name'] = 'dense'


def write_keras(path):
  buffer = io.BytesIO()
  write_hdf5(buffer)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('config.json', '{}')
    archive.writestr('model.weights.h5', buffer.getvalue())


def write_pdparams(path):
  path.write_bytes(pickle.dumps({'x': VALUE}, 4))


def onnx_model(tensor):
  graph = onnx.helper.make_graph([], 'g', [], [], [tensor])
  return onnx.helper.make_model(graph)


def write_onnx(path):
  model = onnx_model(numpy_helper.from_array(VALUE, 'x'))
  path.write_bytes(model.SerializeToString())


WRITERS = {
  '.safetensors': (write_safetensors, 'safetensors'),
  '.npz': (write_npz, 'npz'),
  '.h5': (write_hdf5, 'hdf5'),
  '.keras': (write_keras, 'hdf5'),
  '.pdparams': (write_pdparams, 'pdparams'),
  '.onnx': (write_onnx, 'onnx'),
}


@pytest.mark.parametrize('suffix', WRITERS)
def test_every_format_is_read(tmp_path, suffix):
  write, form = WRITERS[suffix]
  path = tmp_path / f'a{suffix}'
  write(path)
  assert dispatch.find_format(str(path)) == form
  (value,) = dispatch.read_tensors(str(path)).values()
  np.testing.assert_array_equal(value, VALUE)


@pytest.mark.parametrize('suffix', [s for s in WRITERS if s != '.onnx'])
@pytest.mark.parametrize('wrong', ['', '.dat', '.pth', '.tflite'])
def test_content_goes_before_the_suffix(tmp_path, suffix, wrong):
  write, form = WRITERS[suffix]
  if form == 'pdparams' and wrong == '.pth':
    pytest.skip('a pickle has no mark of its own')
  path = tmp_path / f'a{suffix}'
  write(path)
  renamed = str(shutil.move(path, tmp_path / f'b{wrong}'))
  assert dispatch.find_format(renamed) == form


@pytest.mark.parametrize(
  ('content', 'form'),
  [
    (b'\x1c\0\0\0TFL3', 'tflite'),
    (b'\x1f\x8b\x08', 'archive'),
    (b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.', 'pth'),
    (b'any' + bytes.fromhex('57fb808b247547db'), 'tf_checkpoint'),
    (b'\x89HDF\r\n\x1a\n', 'hdf5'),
    (b'PK\3\4 damaged', ''),
    (b'', ''),
  ],
)
def test_marks_of_formats(tmp_path, content, form):
  path = tmp_path / 'a'
  path.write_bytes(content)
  assert dispatch.find_format(str(path)) == form


@pytest.mark.parametrize('suffix', dispatch.SUFFIXES)
def test_a_damaged_file_is_that_of_its_suffix(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  path.write_bytes(b'damaged')
  with pytest.raises(ValueError, match=rf'a{suffix}[ ,].*is (not a|dam)'):
    dispatch.read_tensors(str(path))


@pytest.mark.parametrize('suffix', ['.pth', '.h5', '.tflite', ''])
@pytest.mark.parametrize('page', ['<!DOCTYPE html>', '\n <HTML lang="en">'])
def test_a_page_is_named(tmp_path, suffix, page):
  path = tmp_path / f'a{suffix}'
  path.write_text(page)
  with pytest.raises(ValueError, match=r'a\S* is an HTML page and not a file'):
    dispatch.read_tensors(str(path))


def test_unknown_files_fail(tmp_path):
  path = tmp_path / 'a.txt'
  with pytest.raises(FileNotFoundError, match=r'a\.txt does not exist'):
    dispatch.read_tensors(str(path))
  path.write_bytes(b'')
  with pytest.raises(ValueError, match=r'the suffixes are .*\.safetensors'):
    dispatch.read_tensors(str(path))


@pytest.mark.parametrize(
  ('names', 'expected'),
  [
    (['module.a.w', 'module.b'], ['a.w', 'b']),
    (['model._orig_mod.a.w', 'model._orig_mod.b.w'], ['a.w', 'b.w']),
    (['segmenter.backbone.w', 'segmenter.head.w'], ['backbone.w', 'head.w']),
    # The encoder alone, or names that differ.
    (['backbone.a.w', 'backbone.b.w'], ['backbone.a.w', 'backbone.b.w']),
    (['net.a.w', 'net.b.w', 'loss.w'], ['net.a.w', 'net.b.w', 'loss.w']),
    (['module.a.w', 'module'], ['module.a.w', 'module']),
    (['fc.weight', 'fc.bias'], ['fc.weight', 'fc.bias']),
    (['a/w', 'b/w'], ['a/w', 'b/w']),
  ],
)
def test_a_prefix_that_all_names_share_is_left_out(tmp_path, names, expected):
  path = str(tmp_path / 'a.safetensors')
  tensors = {name: np.float32([i]) for i, name in enumerate(names)}
  safetensors.write_safetensors(path, tensors, {})
  read = dispatch.read_tensors(path)
  assert {name: int(x[0]) for name, x in read.items()} == {
    name: i for i, name in enumerate(expected)
  }


def test_tensors_in_other_files_are_refused(tmp_path):
  tensor = numpy_helper.from_array(VALUE, 'x')
  onnx.external_data_helper.set_external_data(tensor, '/etc/passwd')
  tensor.ClearField('raw_data')
  path = tmp_path / 'a.onnx'
  path.write_bytes(onnx_model(tensor).SerializeToString())
  with pytest.raises(ValueError, match=r"a\.onnx .*'x' lies in another file"):
    dispatch.read_tensors(str(path))


def test_pickled_objects_in_an_archive_are_refused(tmp_path):
  path = tmp_path / 'a.npz'
  np.savez(path, x=np.array([{}], object))
  with pytest.raises(ValueError, match=r'a\.npz is not a whole \.npz archive'):
    dispatch.read_tensors(str(path))


def test_a_saved_model_holds_a_checkpoint(tmp_path):
  (tmp_path / 'variables').mkdir()
  index = tmp_path / 'variables/variables.index'
  index.touch()
  assert tf_checkpoint.find_index_file(tmp_path) is None
  (tmp_path / 'saved_model.pb').touch()
  assert tf_checkpoint.find_index_file(tmp_path) == str(index)


def _npz_of(member, content):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr(member, content)
  return file.getvalue()


def _npy(head):
  return b'\x93NUMPY\x01\0' + len(head).to_bytes(2, 'little') + head


@pytest.mark.parametrize(
  ('member', 'content', 'message'),
  [
    ('a.npy', _npy(b"{'descr': '<f4', 'shape': (2,"), 'archive of arrays'),
    ('a.npy', _npy(b"{'descr': 'O', 'fortran_order': False, "), 'of arrays'),
    ('a.txt', b'notes', r"its member 'a\.txt' is no array"),
  ],
)
def test_damaged_arrays_of_an_archive(tmp_path, member, content, message):
  path = tmp_path / 'a.npz'
  path.write_bytes(_npz_of(member, content))
  with pytest.raises(ValueError, match=rf'a\.npz is not a whole.*{message}'):
    dispatch.read_tensors(str(path))


def test_an_archive_whose_directory_points_before_its_start(tmp_path):
  """NumPy seeks to a negative position, which is an OSError without a name."""
  content = bytearray(_npz_of('a.npy', _npy(b'')))
  start = content.rindex(b'PK\x01\x02')
  content[start + 42 : start + 46] = (2**31).to_bytes(4, 'little')
  end = content.rindex(b'PK\x05\x06')
  content[end + 16 : end + 20] = (2**32 - 1).to_bytes(4, 'little')
  path = tmp_path / 'a.npz'
  path.write_bytes(bytes(content))
  with pytest.raises(ValueError, match=r'a\.npz is not a whole'):
    dispatch.read_tensors(str(path))


def test_unknown_types_of_an_onnx_tensor(tmp_path):
  tensor = numpy_helper.from_array(VALUE, 'x')
  tensor.data_type = 65
  path = tmp_path / 'a.onnx'
  path.write_bytes(onnx_model(tensor).SerializeToString())
  with pytest.raises(ValueError, match=r'a\.onnx is not a whole ONNX file'):
    dispatch.read_tensors(str(path))
