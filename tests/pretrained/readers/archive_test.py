"""TensorFlow's archives and frozen graphs are read; damaged ones refused."""

import io
import tarfile

import numpy as np
import pytest

from deeplab.pretrained.readers import dispatch

KERNEL = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)


def _graph(sizes=None):
  """Returns a frozen graph with one weight and one shape.

  Args:
    sizes: what the graph says of the weight's shape; None: the truth.
  """
  from tensorflow.core.framework import graph_pb2
  from tensorflow.python.framework import tensor_util

  graph = graph_pb2.GraphDef()
  for name, value in (
    ('MobilenetV2/Conv/weights', KERNEL),
    ('Reshape/shape', np.array([1, -1], np.int32)),
    ('mul/y', np.float32(2)),
  ):
    node = graph.node.add(name=name, op='Const')
    node.attr['value'].tensor.CopyFrom(tensor_util.make_tensor_proto(value))
  for dim, size in zip(
    graph.node[0].attr['value'].tensor.tensor_shape.dim,
    sizes or (),
    strict=False,
  ):
    dim.size = size
  graph.node.add(name='MobilenetV2/Conv/weights/read', op='Identity')
  return graph.SerializeToString()


def _write_archive(path, files):
  with tarfile.open(path, 'w:gz') as archive:
    for name, content in files.items():
      member = tarfile.TarInfo(f'deeplabv3/{name}')
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))


def test_a_frozen_graph(tmp_path):
  path = tmp_path / 'frozen_inference_graph.pb'
  path.write_bytes(_graph())
  tensors = dispatch.read_tensors(str(path))
  assert list(tensors) == ['MobilenetV2/Conv/weights']
  np.testing.assert_array_equal(tensors['MobilenetV2/Conv/weights'], KERNEL)
  path.write_bytes(b'\x0a\xff')
  with pytest.raises(ValueError, match=r'graph\.pb is n'):
    dispatch.read_tensors(str(path))


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ((1 << 20, 1 << 10), '20 times its own size'),
    ((-1,), r'a constant has the shape \[-1, 1, 3, 4\]'),
  ],
)
def test_sizes_come_first(tmp_path, sizes, message):
  path = tmp_path / 'frozen_inference_graph.pb'
  path.write_bytes(_graph(sizes))
  with pytest.raises(ValueError, match=rf'graph\.pb is not a whole.*{message}'):
    dispatch.read_tensors(str(path))
  archive = tmp_path / 'a.tar.gz'
  _write_archive(archive, {'frozen_inference_graph.pb': _graph(sizes)})
  with pytest.raises(
    ValueError, match=rf'a\.tar\.gz is damaged \(frozen.*{message}'
  ):
    dispatch.read_tensors(str(archive))


def test_an_archive_with_a_frozen_graph(tmp_path):
  path = tmp_path / 'a.tar.gz'
  _write_archive(path, {'frozen_inference_graph.pb': _graph(), 'x.txt': b'x'})
  tensors = dispatch.read_tensors(str(path))
  np.testing.assert_array_equal(tensors['MobilenetV2/Conv/weights'], KERNEL)


def test_an_archive_with_a_checkpoint(tmp_path):
  import tensorflow as tf

  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    tf.compat.v1.get_variable('Conv/weights', initializer=KERNEL)
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver().save(session, str(tmp_path / 'model.ckpt-30'))
  files = {
    x.name: x.read_bytes() for x in tmp_path.iterdir() if 'model.ckpt' in x.name
  }
  files['frozen_inference_graph.pb'] = b'not read'
  _write_archive(tmp_path / 'a.tar.gz', files)
  tensors = dispatch.read_tensors(str(tmp_path / 'a.tar.gz'))
  assert list(tensors) == ['Conv/weights']
  np.testing.assert_array_equal(tensors['Conv/weights'], KERNEL)


def test_bad_archives(tmp_path):
  path = tmp_path / 'a.tar.gz'
  _write_archive(path, {'x.txt': b'x'})
  with pytest.raises(ValueError, match='neither a TensorFlow checkpoint nor'):
    dispatch.read_tensors(str(path))
  _write_archive(path, {'frozen_inference_graph.pb': bytes(30 << 20)})
  with pytest.raises(ValueError, match=r'a\.tar\.gz .* 20 times its own size'):
    dispatch.read_tensors(str(path))
  for content in (b'', b'text', path.read_bytes()[:1000]):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'is not a whole \.tar\.gz archive'):
      dispatch.read_tensors(str(path))
