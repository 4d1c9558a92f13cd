"""Inserts QUANTIZE operators between int8 and int16 layers of a .tflite file.

Devices requantize between the two with a QUANTIZE. litert-converter would fuse
it into the preceding operator, and no kernel computes that. Therefore
`providers.mark_for_conversion` inserts a FLOOR, which the converter keeps in
float32, and this module replaces the float32 operators by the QUANTIZE. The
converter does not support an int16 CONCATENATION either, although kernels do:
its inputs come from a FLOOR, too.
"""

from ai_edge_litert import schema_py_generated as schema
import numpy as np

from deeplab import tflite_schema
from export.graph import edit

_OPERATORS_WITH_BIAS = ('CONV_2D', 'DEPTHWISE_CONV_2D')


def insert_requantize(data: bytes) -> bytes:
  """Replaces the float32 operators between int8 and int16 by QUANTIZE.

  Biases of int16 convolutions become int64, as kernels and compilers require.

  Args:
    data: bytes of the file that litert-converter writes.

  Returns:
    The bytes of the edited file.
  """
  model = schema.ModelT.InitFromPackedBuf(data, 0)
  (main,) = model.subgraphs
  producers = {int(i): op for op in main.operators for i in op.outputs}
  name = lambda op: tflite_schema.operator_name(
    model.operatorCodes[op.opcodeIndex]
  )

  def before_floor(index: int) -> int:
    """Returns the quantized tensor that a FLOOR reads, or `index` itself."""
    floor = producers.get(index)
    if floor is None or name(floor) != 'FLOOR':
      return index
    return int(producers[int(floor.inputs[0])].inputs[0])

  for op in main.operators:
    if name(op) == 'CONCATENATION':
      op.inputs = [before_floor(int(i)) for i in op.inputs]
  for op in list(main.operators):
    if name(op) != 'QUANTIZE':
      continue
    op.inputs = [before_floor(int(op.inputs[0]))]
    concat = producers.get(int(op.inputs[0]))
    if concat is None or name(concat) != 'CONCATENATION':
      continue
    if main.tensors[int(concat.inputs[0])].type == schema.TensorType.INT16:
      # It computes in int16 itself.
      concat.outputs = op.outputs
      main.operators.remove(op)
  _drop_unused_operators(main, name)
  for op in main.operators:
    x = main.tensors[int(op.inputs[0])]
    if name(op) in _OPERATORS_WITH_BIAS and x.type == schema.TensorType.INT16:
      _widen_bias(model, int(op.inputs[2]))
  edit.remove_unused_tensors(model)
  return edit.serialize_model(model)


def _drop_unused_operators(main: schema.SubGraphT, name) -> None:
  """Removes FLOOR and DEQUANTIZE operators whose output nothing reads."""
  for kind in ('FLOOR', 'DEQUANTIZE'):
    read = {int(i) for op in main.operators for i in op.inputs}
    read |= {int(i) for i in main.outputs}
    main.operators = [
      op
      for op in main.operators
      if name(op) != kind or read & {int(i) for i in op.outputs}
    ]


def _widen_bias(model: schema.ModelT, index: int) -> None:
  """Converts the int32 bias at a tensor index to int64."""
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
