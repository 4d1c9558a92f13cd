"""The reader and the judge, on files made by hand."""

from ai_edge_litert import schema_py_generated as schema
import numpy as np
import pytest

from export.graph import checks
from export.graph import edit
from export.graph import tflite_graph
from tests.export import handmade as fb


def convolution(dtype='int8', bias='int32', weight_scales=4):
  """image [1, 8, 8, 3] -> 3x3 convolution, stride 2 -> [1, 4, 4, 4]."""
  np_dtype = np.dtype(dtype)
  quantized = dtype == 'int8'
  return fb.build(
    [
      fb.tensor('image', dtype, (1, 8, 8, 3), scales=[1.0] * quantized),
      fb.tensor(
        'kernel',
        dtype,
        (4, 3, 3, 3),
        data=np.zeros((4, 3, 3, 3), np_dtype),
        scales=[0.1] * (weight_scales if quantized else 0),
      ),
      fb.tensor('bias', bias, (4,), data=np.zeros(4, np.dtype(bias))),
      fb.tensor('map', dtype, (1, 4, 4, 4), scales=[0.5] * quantized),
    ],
    [('CONV_2D', (0, 1, 2), (3,))],
    (0,),
    (3,),
  )


def test_facts_of_a_convolution():
  read = tflite_graph.read_tflite(convolution())
  assert tflite_graph.count_operators(read) == {'CONV_2D': 1}
  assert tflite_graph.count_operator_dtypes(read) == {'CONV_2D': {'int8': 1}}
  assert tflite_graph.weight_bytes(read) == 4 * 3 * 3 * 3 + 4 * 4
  assert tflite_graph.count_macs(read) == 4 * 4 * 4 * 3 * 3 * 3
  assert read.tensors[0].nbytes == 192
  assert tflite_graph.tensor_qparams(read.tensors[3]) == {
    'scale': 0.5,
    'zero_point': 0,
  }
  assert tflite_graph.tensor_qparams(read.tensors[1]) is None
  checks.check_graph(read, 'it', 'int8', 'int8', 'int8')


def test_macs_by_operator():
  read = tflite_graph.read_tflite(
    fb.build(
      [
        fb.tensor('x', 'float32', (1, 5, 7, 6)),
        fb.tensor('k', 'float32', (1, 3, 3, 6), data=np.zeros(54, 'f')),
        fb.tensor('y', 'float32', (1, 5, 7, 6)),
        fb.tensor('w', 'float32', (10, 210), data=np.zeros(2100, 'f')),
        fb.tensor('z', 'float32', (1, 10)),
      ],
      [
        ('DEPTHWISE_CONV_2D', (0, 1), (2,)),
        ('RESHAPE', (2,), (2,)),
        ('FULLY_CONNECTED', (2, 3), (4,)),
      ],
      (0,),
      (4,),
    )
  )
  assert tflite_graph.count_macs(read) == 5 * 7 * 6 * 9 + 10 * 210


def test_shared_constants_count_once():
  data = fb.build(
    [
      fb.tensor('x', 'float32', (4,)),
      fb.tensor('w', 'float32', (4,), data=np.ones(4, 'f')),
      fb.tensor('y', 'float32', (4,)),
      fb.tensor('z', 'float32', (4,)),
      fb.tensor('unread', 'float32', (4,), data=np.ones(4, 'f')),
    ],
    [('ADD', (0, 1), (2,)), ('MUL', (2, 1), (3,))],
    (0,),
    (3,),
  )
  assert tflite_graph.weight_bytes(tflite_graph.read_tflite(data)) == 16


def test_not_a_file():
  with pytest.raises(ValueError, match=r'not a \.tflite file'):
    tflite_graph.read_tflite(b'PK\x03\x04 something else')


def test_float_file_that_is_called_int8():
  read = tflite_graph.read_tflite(convolution('float32', 'float32'))
  checks.check_graph(read, 'it', 'float32')
  with pytest.raises(
    tflite_graph.BadGraph,
    match=r"CONV_2D .*'map'.* is a float operator: 'image'",
  ):
    checks.check_graph(read, 'it', 'int8')


@pytest.mark.parametrize(
  'name', ['CUSTOM:FlexErf', 'CUSTOM:MyOp', 'STABLEHLO_COMPOSITE']
)
@pytest.mark.parametrize('kind', ['float32', 'int8'])
def test_foreign_operators(name, kind):
  dtype = 'int8' if kind == 'int8' else 'float32'
  read = tflite_graph.read_tflite(
    fb.build(
      [fb.tensor('x', dtype, (4,)), fb.tensor('peaks', dtype, (4,))],
      [(name, (0,), (1,))],
      (0,),
      (1,),
    )
  )
  with pytest.raises(
    tflite_graph.BadGraph, match=f"{name} .*'peaks'.* is no builtin operator"
  ):
    checks.check_graph(read, 'it', kind, dtype, dtype)


def ends(middle=()):
  """float in -> QUANTIZE -> DEQUANTIZE -> float out, or with more between."""
  return tflite_graph.read_tflite(
    fb.build(
      [
        fb.tensor('x', 'float32', (4,)),
        fb.tensor('q', 'int8', (4,), scales=[1.0]),
        fb.tensor('y', 'float32', (4,)),
        fb.tensor('inner', 'float32', (4,)),
        fb.tensor('q2', 'int8', (4,), scales=[1.0]),
      ],
      [('QUANTIZE', (0,), (1,)), *middle],
      (0,),
      (2,),
    )
  )


def test_float_ends_are_allowed_where_asked_for():
  read = ends([('DEQUANTIZE', (1,), (2,))])
  checks.check_graph(read, 'it', 'int8', 'float32', 'float32')
  with pytest.raises(
    tflite_graph.BadGraph, match=r"QUANTIZE \(makes tensor 'q'\)"
  ):
    checks.check_graph(read, 'it', 'int8', 'uint8', 'float32')
  with pytest.raises(
    tflite_graph.BadGraph, match=r"DEQUANTIZE \(makes tensor 'y'\)"
  ):
    checks.check_graph(read, 'it', 'int8', 'float32', 'int8')


def test_a_float_island_is_refused():
  read = ends(
    [
      ('DEQUANTIZE', (1,), (3,)),
      ('QUANTIZE', (3,), (4,)),
      ('DEQUANTIZE', (4,), (2,)),
    ]
  )
  with pytest.raises(
    tflite_graph.BadGraph, match=r"DEQUANTIZE .*'inner'.*QUANTIZE .*'q2'"
  ):
    checks.check_graph(read, 'it', 'int8')


def test_types_of_the_ends():
  with pytest.raises(
    tflite_graph.BadGraph, match="input tensor 'image' is int8, not uint8"
  ):
    checks.check_graph(
      tflite_graph.read_tflite(convolution()), 'it', 'int8', 'uint8', 'int8'
    )


def test_weights_with_one_scale_for_all_channels():
  read = tflite_graph.read_tflite(convolution(weight_scales=1))
  with pytest.raises(
    tflite_graph.BadGraph, match='1 weight scales for 4 channels'
  ):
    checks.check_graph(read, 'it', 'int8', 'int8', 'int8')


def test_float16_file_with_float32_weights():
  read = tflite_graph.read_tflite(convolution('float32', 'float32'))
  with pytest.raises(
    tflite_graph.BadGraph, match="'kernel', which is stored as float32"
  ):
    checks.check_graph(read, 'it', 'float16')


def test_many_complaints_are_counted():
  read = tflite_graph.read_tflite(
    fb.build(
      [fb.tensor('x', 'float32', (4,)), fb.tensor('y', 'float32', (4,))],
      [('CUSTOM:A', (0,), (1,))] * 7,
      (0,),
      (1,),
    )
  )
  with pytest.raises(tflite_graph.BadGraph, match=r'and 4 more$'):
    checks.check_graph(read, 'it', 'float32')


def test_names_are_those_of_layers():
  """And no two tensors have one."""
  path = 'jit(compute)/Segmenter/encoder/stem/norm/bn'
  joined = f'min;max;{path}/add;{path}/mul;'
  names = [
    'serving_default_image:0',
    joined,
    joined,
    'tfl.pseudo_qconst',
    'out',
  ]
  model = schema.ModelT()
  main = schema.SubGraphT()
  main.inputs, main.outputs, main.operators = [0], [4], []
  main.tensors = []
  for name in names:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name.encode(), [1], 0
    main.tensors.append(tensor)
  model.version, model.buffers = 3, [schema.BufferT()]
  model.subgraphs, model.operatorCodes = [main], []
  found = tflite_graph.read_tflite(
    edit.shorten_tensor_names(edit.serialize_model(model))
  )
  assert [tensor.name for tensor in found.tensors] == [
    *(names[0], 'encoder/stem/norm/bn/add', 'encoder/stem/norm/bn/add:2'),
    *names[3:],
  ]
