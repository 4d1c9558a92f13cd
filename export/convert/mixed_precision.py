"""Maps of 8 and of 16 bits in one .tflite file, as devices compute them.

Between the two stands a QUANTIZE. litert-converter would make it a part of the
operator before it, which no kernel computes; so `providers.mark_for_conversion`
puts a FLOOR there, which it keeps in float32, and here the QUANTIZE is put in
its place. Nor does it know a CONCATENATION of 16 bits, which kernels do: its
parts come behind a FLOOR, too.
"""

from ai_edge_litert import schema_py_generated as schema
import numpy as np

from deeplab import tflite_schema
from export.graph import edit

_OPERATORS_WITH_BIAS = ('CONV_2D', 'DEPTHWISE_CONV_2D')


def insert_requantize(data: bytes) -> bytes:
  """Returns a file without float32 between 8 and 16 bits.

  Biases behind maps of 16 bits become int64, as kernels and compilers want
  them.
  """
  model = schema.ModelT.InitFromPackedBuf(data, 0)
  (main,) = model.subgraphs
  makers = {int(i): op for op in main.operators for i in op.outputs}
  name = lambda op: tflite_schema.operator_name(
    model.operatorCodes[op.opcodeIndex]
  )

  def before_floor(index: int) -> int:
    """Returns the quantised tensor behind a FLOOR's result, or that itself."""
    floor = makers.get(index)
    if floor is None or name(floor) != 'FLOOR':
      return index
    return int(makers[int(floor.inputs[0])].inputs[0])

  for op in main.operators:
    if name(op) == 'CONCATENATION':
      op.inputs = [before_floor(int(i)) for i in op.inputs]
  for op in list(main.operators):
    if name(op) != 'QUANTIZE':
      continue
    op.inputs = [before_floor(int(op.inputs[0]))]
    joined = makers.get(int(op.inputs[0]))
    if joined is None or name(joined) != 'CONCATENATION':
      continue
    if main.tensors[int(joined.inputs[0])].type == schema.TensorType.INT16:
      joined.outputs = op.outputs
      main.operators.remove(op)
  _drop_unused_operators(main, name)
  for op in main.operators:
    read = main.tensors[int(op.inputs[0])]
    if (
      name(op) in _OPERATORS_WITH_BIAS and read.type == schema.TensorType.INT16
    ):
      _widen_bias(model, int(op.inputs[2]))
  edit.remove_unused_tensors(model)
  return edit.serialize_model(model)


def _drop_unused_operators(main: schema.SubGraphT, name) -> None:
  """Drops a FLOOR, and a DEQUANTIZE before it, whose result nobody reads."""
  for kind in ('FLOOR', 'DEQUANTIZE'):
    read = {int(i) for op in main.operators for i in op.inputs}
    read |= {int(i) for i in main.outputs}
    main.operators = [
      op
      for op in main.operators
      if name(op) != kind or read & {int(i) for i in op.outputs}
    ]


def _widen_bias(model: schema.ModelT, index: int) -> None:
  """Makes an int32 bias an int64 one."""
  (main,) = model.subgraphs
  tensor = main.tensors[index]
  if tensor.type == schema.TensorType.INT64:
    return
  values = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
  values = np.frombuffer(values.tobytes(), np.int32).astype(np.int64)
  buffer = schema.BufferT()
  buffer.data = np.frombuffer(values.tobytes(), np.uint8)
  model.buffers.append(buffer)
  tensor.buffer = len(model.buffers) - 1
  tensor.type = schema.TensorType.INT64
