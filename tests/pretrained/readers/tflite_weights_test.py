import re

from ai_edge_litert import schema_py_generated as schema
import flatbuffers
import numpy as np
import pytest

from deeplab.pretrained.readers import tflite_weights
from tests.export import handmade

IMAGE = handmade.tensor('image', 'float32', (1, 4, 4, 3))
MAP = handmade.tensor('map', 'float32', (1, 4, 4, 2))


def write(path, tensors, operators):
  path.write_bytes(handmade.build(tensors, operators, [0], [len(tensors) - 1]))
  return path


def one_layer(path, kind, kernel, bias=None):
  """Writes a file with one layer of these constants."""
  constants = [kernel] if bias is None else [kernel, bias]
  inputs = range(1 + len(constants))
  tensors = [IMAGE, *constants, MAP]
  return write(path, tensors, [(kind, inputs, [len(tensors) - 1])])


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'model.tflite'


def test_float_layers_are_unchanged(path):
  kernel = np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3)
  bias = np.array([5, 6], np.float32)
  one_layer(
    path,
    'CONV_2D',
    handmade.tensor('a/stem/weights', 'float32', kernel.shape, data=kernel),
    handmade.tensor('a/stem/Conv2D_bias', 'float32', (2,), data=bias),
  )
  tensors = tflite_weights.read_tflite(path)
  assert list(tensors) == ['a/stem/weights', 'a/stem/biases']
  np.testing.assert_array_equal(tensors['a/stem/weights'], kernel)
  assert tensors['a/stem/biases'].tolist() == [5, 6]


def test_per_tensor_scales_are_dequantized(path):
  kernel = np.array([[[[0, 128, 255]]], [[[128, 129, 130]]]], np.uint8)
  bias = np.array([-3, 2**30 + 1], np.int32)
  one_layer(
    path,
    'CONV_2D',
    handmade.tensor(
      'x/weights', 'uint8', kernel.shape, data=kernel, scales=[0.5], zeros=[128]
    ),
    handmade.tensor('x/bias', 'int32', (2,), data=bias, scales=[2.0**-30]),
  )
  tensors = tflite_weights.read_tflite(path)
  assert tensors['x/weights'].reshape(2, 3).tolist() == [
    [-64.0, 0.0, 63.5],
    [0.0, 0.5, 1.0],
  ]
  assert tensors['x/weights'].dtype == np.float32
  assert tensors['x/biases'].tolist() == [-3 * 2.0**-30, 1.0]


def test_per_channel_scales_are_dequantized(path):
  kernel = np.array([[[[1, -2]], [[3, 4]]]], np.int8)  # [1, 2, 1, 2]
  one_layer(
    path,
    'DEPTHWISE_CONV_2D',
    handmade.tensor(
      'x/weights', 'int8', kernel.shape, data=kernel, scales=[0.5, 4.0], axis=3
    ),
    handmade.tensor(
      'x/bias',
      'int32',
      (2,),
      data=np.array([8, 8], np.int32),
      scales=[0.25, 2.0],
    ),
  )
  tensors = tflite_weights.read_tflite(path)
  assert tensors['x/weights'].tolist() == [[[[0.5, -8.0]], [[1.5, 16.0]]]]
  assert tensors['x/biases'].tolist() == [2.0, 16.0]


def test_half_precision_and_a_missing_bias(path):
  kernel = np.array([[1.5, -2.0, 3.0]], np.float16)
  tensors = [
    IMAGE,
    handmade.tensor('x/MatMul', 'float16', (1, 3), data=kernel),
    handmade.tensor('x/dequantized', 'float32', (1, 3)),
    MAP,
  ]
  operators = [
    ('DEQUANTIZE', [1], [2]),
    ('FULLY_CONNECTED', [0, 2, -1], [3]),
  ]
  read = tflite_weights.read_tflite(write(path, tensors, operators))
  assert read['x/weights'].tolist() == [[1.5, -2.0, 3.0]]
  assert read['x/biases'].tolist() == [0.0]


def test_one_name_twice_and_one_kernel_twice(path):
  kernels = [np.full((2, 1, 1, 3), i, np.float32) for i in (1, 2)]
  tensors = [
    IMAGE,
    *(
      handmade.tensor('x/weights', 'float32', (2, 1, 1, 3), data=kernel)
      for kernel in kernels
    ),
    MAP,
  ]
  read = tflite_weights.read_tflite(
    write(path, tensors, [('CONV_2D', [0, i], [3]) for i in (1, 2, 1)])
  )
  assert sorted(read) == [
    *('x/biases', 'x/weights', 'x:1/biases', 'x:1/weights'),
  ]
  assert read['x/weights'].max() == 1
  assert read['x:1/weights'].max() == 2


def test_products_of_activations_are_not_layers(path):
  tensors = [IMAGE, handmade.tensor('keys', 'float32', (3, 3)), MAP]
  assert not tflite_weights.read_tflite(
    write(path, tensors, [('FULLY_CONNECTED', [0, 1, -1], [2])])
  )


def test_weights_outside_convolutions_fail(path):
  scale = np.array([1, 2], np.float32)
  mean = np.array([1, 2, 3], np.float32)
  tensors = [
    IMAGE,
    handmade.tensor('mean', 'float32', (3,), data=mean),
    handmade.tensor(
      'x/weights',
      'float32',
      (2, 1, 1, 3),
      data=np.ones((2, 1, 1, 3), np.float32),
    ),
    handmade.tensor('half', 'float32', (), data=scale[:1]),
    handmade.tensor('x/gamma', 'float32', (2,), data=scale),
    MAP,
  ]
  # What normalizes the image, and plain numbers, are no weights.
  plain = [('SUB', [0, 1], [0]), ('CONV_2D', [0, 2], [5]), ('MUL', [5, 3], [5])]
  assert len(tflite_weights.read_tflite(write(path, tensors, plain))) == 2
  write(path, tensors, [*plain, ('MUL', [5, 4], [5])])
  with pytest.raises(ValueError, match=r"model.tflite: MUL reads .*'x/gamma'"):
    tflite_weights.read_tflite(path)


@pytest.mark.parametrize(
  ('tensor', 'layer'),
  [
    ('a/conv/weights', 'a/conv'),
    ('a/depthwise/depthwise_weights', 'a/depthwise'),
    ('a/Conv2D_Fold;a/weights_quant/FakeQuantWithMinMaxVars', 'a'),
    ('a/depthwise/depthwise_Fold;a/b', 'a/depthwise'),
    ('a/bn/FusedBatchNormV3;a/conv/Conv2D1;b/Conv2D', 'a/conv'),
    (
      'a/depthwise/BatchNorm/FusedBatchNormV3;a/depthwise/depthwise;b/Conv2D',
      'a/depthwise',
    ),
    ('a/b/batch_norm/FusedBatchNormV3;StatefulPartitionedCall/x', 'a/b'),
    ('StatefulPartitionedCall/a/Conv2D', 'a'),
    ('arith.constant7', 'arith.constant7'),
  ],
)
def test_layer_names(tensor, layer):
  assert tflite_weights.layer_name(tensor) == layer


def test_integers_need_a_scale_and_a_known_type(path):
  kernel = np.ones((2, 1, 1, 3), np.int8)
  one_layer(
    path,
    'CONV_2D',
    handmade.tensor('x/weights', 'int8', kernel.shape, data=kernel),
  )
  with pytest.raises(ValueError, match="'x/weights' holds integers without"):
    tflite_weights.read_tflite(path)
  one_layer(
    path,
    'CONV_2D',
    handmade.tensor('x/weights', 'bool', kernel.shape, data=kernel),
  )
  with pytest.raises(ValueError, match="'x/weights' is of type bool, which"):
    tflite_weights.read_tflite(path)


def test_one_scale_per_channel(path):
  # NumPy would stretch an axis of one to as many scales as there are.
  kernel = np.ones((1, 1, 1, 3), np.int8)
  one_layer(
    path,
    'CONV_2D',
    handmade.tensor(
      'x/weights', 'int8', kernel.shape, data=kernel, scales=[0.5] * 9, axis=0
    ),
  )
  with pytest.raises(ValueError, match=r'model\.tflite is damaged or cut'):
    tflite_weights.read_tflite(path)


def test_one_buffer_is_not_copied_for_each_of_many_layers(path):
  kernel = np.ones((64, 1, 1, 1024), np.float32)
  count = 60
  kernels = [
    handmade.tensor(f'x{i}/weights', 'float32', kernel.shape, data=kernel)
    for i in range(count)
  ]
  tensors = [IMAGE, *kernels, MAP]
  operators = [
    ('CONV_2D', [0, i + 1], [len(tensors) - 1]) for i in range(count)
  ]
  write(path, tensors, operators)
  model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
  graph = model.subgraphs[0]
  for tensor in graph.tensors[1:-1]:
    tensor.buffer = graph.tensors[1].buffer
  used = {tensor.buffer for tensor in graph.tensors}
  for i, buffer in enumerate(model.buffers):
    if i not in used:
      buffer.data = None
  builder = flatbuffers.Builder()
  builder.Finish(model.Pack(builder), b'TFL3')
  path.write_bytes(builder.Output())
  assert path.stat().st_size < 2 * kernel.nbytes
  with pytest.raises(ValueError, match='more than 20 times its own size'):
    tflite_weights.read_tflite(path)


def test_numbers_of_tensors_that_do_not_exist_fail(path):
  kernel = np.ones((2, 1, 1, 3), np.float32)
  weights = handmade.tensor('x/weights', 'float32', (2, 1, 1, 3), data=kernel)
  write(path, [IMAGE, weights, MAP], [('CONV_2D', [0, 7], [2])])
  with pytest.raises(ValueError, match='Tensors has 3 elements, none has numb'):
    tflite_weights.read_tflite(path)


def test_damaged_files_fail(path):
  kernel = np.ones((2, 1, 1, 3), np.float32)
  one_layer(
    path,
    'CONV_2D',
    handmade.tensor('x/weights', 'float32', kernel.shape, data=kernel),
  )
  whole = path.read_bytes()
  for share in (0.1, 0.3, 0.5, 0.7, 0.9):
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
      ValueError, match=re.escape(f'{path} is damaged or cut')
    ):
      tflite_weights.read_tflite(path)
  path.write_bytes(b'PK\3\4 something else')
  with pytest.raises(ValueError, match='is not a TensorFlow Lite file'):
    tflite_weights.read_tflite(path)
  with pytest.raises(ValueError, match=r'there is no file .*none.tflite'):
    tflite_weights.read_tflite(path.with_name('none.tflite'))


def test_a_published_file(published):
  tensors = tflite_weights.read_tflite(
    published / 'models' / 'deeplabv3plus_mnv2_ade20k32_int8.tflite'
  )
  # A stem, 17 blocks of which one has no expansion, and the head's layers.
  assert len(tensors) == 2 * (1 + 17 * 3 - 1 + 9)
  assert tensors['MobilenetV2/expanded_conv_3/expand/weights'].shape == (
    *(144, 1, 1, 24),
  )
  assert tensors['decoder/decoder_conv0_depthwise/biases'].shape == (304,)
  assert all(np.isfinite(value).all() for value in tensors.values())
