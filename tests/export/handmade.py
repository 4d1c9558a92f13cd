"""Builds .tflite files by hand, among them bad ones that converters write."""

from ai_edge_litert import schema_py_generated as schema
import flatbuffers
import numpy as np

BUILTIN = schema.BuiltinOperator
TYPE = schema.TensorType
TYPES = {
  'float32': TYPE.FLOAT32,
  'float16': TYPE.FLOAT16,
  'int8': TYPE.INT8,
  'uint8': TYPE.UINT8,
  'int16': TYPE.INT16,
  'int32': TYPE.INT32,
  'bool': TYPE.BOOL,
}


def tensor(name, dtype, shape, *, data=None, scales=(), zeros=None, axis=0):
  """Describes a tensor; `data` (a NumPy array) makes it a constant.

  `scales` and `zeros` (0 by default) are one, or one for each slice of `axis`.
  """
  zeros = [0] * len(scales) if zeros is None else zeros
  return name, dtype, shape, data, (scales, zeros, axis)


def build(tensors, operators, inputs, outputs):
  """Returns the bytes of a file.

  Args:
    tensors: of `tensor`.
    operators: (name or 'CUSTOM:xyz', input indices, output indices).
    inputs: tensor indices.
    outputs: tensor indices.
  """
  model = schema.ModelT()
  model.version = 3
  model.operatorCodes, model.buffers = [], [schema.BufferT()]
  graph = schema.SubGraphT()
  graph.tensors, graph.operators = [], []
  graph.inputs, graph.outputs = list(inputs), list(outputs)
  for name, dtype, shape, data, (scales, zeros, axis) in tensors:
    t = schema.TensorT()
    t.name, t.type, t.shape = name, TYPES[dtype], list(shape)
    t.quantization = schema.QuantizationParametersT()
    t.quantization.scale = list(scales)
    t.quantization.zeroPoint = list(zeros)
    t.quantization.quantizedDimension = axis
    if data is not None:
      buffer = schema.BufferT()
      buffer.data = np.frombuffer(data.tobytes(), np.uint8)
      t.buffer = len(model.buffers)
      model.buffers.append(buffer)
    graph.tensors.append(t)
  for name, op_inputs, op_outputs in operators:
    code = schema.OperatorCodeT()
    kind, _, custom = name.partition(':')
    code.builtinCode = getattr(BUILTIN, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.customCode = custom or None
    op = schema.OperatorT()
    op.opcodeIndex = len(model.operatorCodes)
    op.inputs, op.outputs = list(op_inputs), list(op_outputs)
    model.operatorCodes.append(code)
    graph.operators.append(op)
  model.subgraphs = [graph]
  builder = flatbuffers.Builder(1024)
  builder.Finish(model.Pack(builder), b'TFL3')
  return bytes(builder.Output())


def convolution(dtype='int8', bias='int32', weight_scales=4):
  """Returns a file of one 3x3 convolution of stride 2.

  `image` [1, 8, 8, 3] -> `map` [1, 4, 4, 4].

  Args:
    dtype: 'int8' or 'float32', of all but the bias.
    bias: dtype of the bias.
    weight_scales: number of scales of an int8 kernel.
  """
  np_dtype = np.dtype(dtype)
  quantized = dtype == 'int8'
  return build(
    [
      tensor('image', dtype, (1, 8, 8, 3), scales=[1.0] * quantized),
      tensor(
        'kernel',
        dtype,
        (4, 3, 3, 3),
        data=np.zeros((4, 3, 3, 3), np_dtype),
        scales=[0.1] * (weight_scales if quantized else 0),
      ),
      tensor('bias', bias, (4,), data=np.zeros(4, np.dtype(bias))),
      tensor('map', dtype, (1, 4, 4, 4), scales=[0.5] * quantized),
    ],
    [('CONV_2D', (0, 1, 2), (3,))],
    (0,),
    (3,),
  )
