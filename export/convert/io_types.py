"""Changes the input and output types of an int8 file, and appends ARG_MAX.

litert-converter writes files with float32 input and output.
"""

import copy

from ai_edge_litert import schema_py_generated as schema
import numpy as np

from deeplab import tflite_schema
from export.graph import edit
from export.graph import tflite_graph


def set_io_types(data: bytes, input_type: str, output_type: str) -> bytes:
  """Changes float32 input and output to the requested types.

  For int8 the QUANTIZE after the input or the DEQUANTIZE before the output is
  removed; for uint8 it becomes a change of the zero point by 128.

  Args:
    data: bytes of a file with float32 input and output.
    input_type: 'float32', 'int8' or 'uint8'.
    output_type: 'float32', 'int8' or 'uint8'.

  Returns:
    The bytes of the edited file.

  Raises:
    BadGraph: the input does not go into one QUANTIZE, or the output does not
      come from one DEQUANTIZE.
  """
  model = schema.ModelT.InitFromPackedBuf(data, 0)
  (main,) = model.subgraphs
  names = [_operator_name(model, op) for op in main.operators]
  for dtype, name, at in (
    (input_type, 'QUANTIZE', 'inputs'),
    (output_type, 'DEQUANTIZE', 'outputs'),
  ):
    if dtype == 'float32':
      continue
    (outer,) = (int(i) for i in getattr(main, at))
    positions = [
      i
      for i, op in enumerate(main.operators)
      if outer in getattr(op, at) and names[i] == name
    ]
    if len(positions) != 1:
      raise tflite_graph.BadGraph(
        f'the {at[:-1]} of the file has {len(positions)} {name} operators '
        f'instead of one: it cannot be {dtype}'
      )
    operator = main.operators[positions[0]]
    inner = int((operator.outputs if at == 'inputs' else operator.inputs)[0])
    if dtype == 'int8':
      del main.operators[positions[0]], names[positions[0]]
      _replace_io_tensor(model, outer, inner)
      continue
    tensor, int8_tensor = main.tensors[outer], main.tensors[inner]
    tensor.type = schema.TensorType.UINT8
    tensor.quantization = copy.deepcopy(int8_tensor.quantization)
    zero_point = int(int8_tensor.quantization.zeroPoint[0])
    tensor.quantization.zeroPoint = [zero_point + 128]
    if at == 'outputs':
      operator.opcodeIndex = _operator_code_index(model, 'QUANTIZE', 2)
      operator.builtinOptions = None
      operator.builtinOptionsType = 0
  edit.remove_unused_tensors(model)  # the float32 input and output
  return edit.serialize_model(model)


def append_argmax(data: bytes, dtype: str) -> bytes:
  """Appends ARG_MAX to the logits of a file.

  The DEQUANTIZE after int8 logits is removed: it does not change the class.

  Args:
    data: bytes of a file with float32 logits [1, H, W, K].
    dtype: dtype of the class ids [1, H, W], 'int32' or 'uint8'.

  Returns:
    The bytes of the edited file.
  """
  model = schema.ModelT.InitFromPackedBuf(data, 0)
  (main,) = model.subgraphs
  (logits,) = (int(i) for i in main.outputs)
  last = main.operators[-1]
  source = logits
  if _operator_name(model, last) == 'DEQUANTIZE' and logits in last.outputs:
    source = int(last.inputs[0])
    del main.operators[-1]
  shape = [int(n) for n in main.tensors[logits].shape[:3]]
  axis = _add_tensor(model, 'axis', schema.TensorType.INT32, [])
  model.buffers.append(schema.BufferT())
  model.buffers[-1].data = np.frombuffer(np.int32(3).tobytes(), np.uint8)
  main.tensors[axis].buffer = len(model.buffers) - 1
  ids = _add_tensor(model, 'ids', schema.TensorType.INT32, shape)
  options = schema.ArgMaxOptionsT()
  options.outputType = schema.TensorType.INT32
  _append_operator(model, 'ARG_MAX', 2, [source, axis], ids, options)
  if dtype == 'uint8':
    ids_uint8 = _add_tensor(model, 'ids_uint8', schema.TensorType.UINT8, shape)
    cast = schema.CastOptionsT()
    cast.inDataType = schema.TensorType.INT32
    cast.outDataType = schema.TensorType.UINT8
    _append_operator(model, 'CAST', 1, [ids], ids_uint8, cast)
    ids = ids_uint8
  _replace_io_tensor(model, logits, ids)
  edit.remove_unused_tensors(model)  # the float32 logits
  return edit.serialize_model(model)


def _replace_io_tensor(model: schema.ModelT, old: int, new: int) -> None:
  """Replaces an input or output tensor by another one, in signatures, too."""
  (main,) = model.subgraphs
  main.inputs = [new if i == old else int(i) for i in main.inputs]
  main.outputs = [new if i == old else int(i) for i in main.outputs]
  for signature in model.signatureDefs or ():
    for end in (*signature.inputs, *signature.outputs):
      end.tensorIndex = new if end.tensorIndex == old else end.tensorIndex


def _add_tensor(
  model: schema.ModelT, name: str, dtype: int, shape: list[int]
) -> int:
  """Adds a tensor without data and returns its index."""
  (main,) = model.subgraphs
  tensor = schema.TensorT()
  tensor.name, tensor.type, tensor.shape = name.encode(), dtype, shape
  tensor.hasRank = True
  tensor.buffer = 0
  main.tensors.append(tensor)
  return len(main.tensors) - 1


def _append_operator(
  model: schema.ModelT,
  name: str,
  version: int,
  inputs: list[int],
  output: int,
  options: schema.ArgMaxOptionsT | schema.CastOptionsT,
) -> None:
  """Adds an operator after all others."""
  operator = schema.OperatorT()
  operator.opcodeIndex = _operator_code_index(model, name, version)
  operator.inputs, operator.outputs = inputs, [output]
  kind = type(options).__name__.removesuffix('T')
  operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
  operator.builtinOptions = options
  model.subgraphs[0].operators.append(operator)


def _operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
  code = model.operatorCodes[operator.opcodeIndex]
  return tflite_schema.operator_name(code)


def _operator_code_index(model: schema.ModelT, name: str, version: int) -> int:
  """Returns the index of an operator's code, which is added if missing."""
  for i, code in enumerate(model.operatorCodes):
    if tflite_schema.operator_name(code) == name:
      return i
  code = schema.OperatorCodeT()
  code.builtinCode = code.deprecatedBuiltinCode = getattr(
    schema.BuiltinOperator, name
  )
  code.version = version
  model.operatorCodes.append(code)
  return len(model.operatorCodes) - 1
