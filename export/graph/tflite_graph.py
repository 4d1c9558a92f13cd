"""Reads a .tflite file: operators, dtypes, constants, MACs; and judges it.

A converter that could not lower something does not always say so: it may
leave a Flex, custom or STABLEHLO_COMPOSITE operator that one runtime accepts
and the device does not, or float arithmetic in a file that is called int8.
`check` is what stands between such a file and the user.
"""

import dataclasses
import math
import struct

from ai_edge_litert import schema_py_generated as schema
import numpy as np

_OPERATOR_NAMES = {
  v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)
}
_DTYPE_NAMES = {
  v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)
}
_DTYPE_BITS = {
  'float64': 64,
  'float32': 32,
  'float16': 16,
  'bfloat16': 16,
  'int64': 64,
  'uint64': 64,
  'int32': 32,
  'uint32': 32,
  'int16': 16,
  'uint16': 16,
  'int8': 8,
  'uint8': 8,
  'bool': 8,
  'int4': 4,
  'uint4': 4,
  'int2': 2,
}
# Offsets and sizes of a damaged file lead anywhere.
_PARSE_ERRORS = (
  *(struct.error, ArithmeticError, AttributeError, LookupError),
  *(MemoryError, TypeError, UnicodeDecodeError),
)


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor.

  Attributes:
    name: as in the file.
    dtype: lower-case name, such as 'int8'.
    shape: static shape.
    constant_bytes: bytes stored in the file, 0 for activations.
    buffer: index of the stored data; tensors may share it.
    scales: quantisation scales, () where unquantised; several are per-channel.
    zero_points: as many.
  """

  name: str
  dtype: str
  shape: tuple[int, ...]
  constant_bytes: int
  buffer: int
  scales: tuple[float, ...]
  zero_points: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    """Bytes in memory, unpadded."""
    if self.dtype not in _DTYPE_BITS:
      raise BadGraph(f'tensor {self.name!r} has no fixed size: {self.dtype}')
    return -(-math.prod(self.shape) * _DTYPE_BITS[self.dtype] // 8)


@dataclasses.dataclass(frozen=True)
class Operator:
  """One operator; tensors by index, absent optional inputs left out."""

  name: str
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
  """The main subgraph of a file, in execution order.

  Attributes:
    tensors: all tensors.
    operators: all operators.
    inputs: tensor indices the caller sets.
    outputs: tensor indices the caller reads.
    subgraphs: number of subgraphs in the file; 1 where nothing is nested.
  """

  tensors: tuple[Tensor, ...]
  operators: tuple[Operator, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  subgraphs: int

  def is_constant(self, index: int) -> bool:
    """Whether the tensor's data is stored in the file."""
    return self.tensors[index].constant_bytes > 0


def operator_name(code: schema.OperatorCodeT) -> str:
  """Returns the name of an operator code, CUSTOM's with its own behind."""
  # The 8-bit field is what files held before there were 128 operators.
  number = max(code.builtinCode, code.deprecatedBuiltinCode)
  name = _OPERATOR_NAMES.get(number, f'UNKNOWN_{number}')
  if name == 'CUSTOM':
    custom = code.customCode or b''
    return f'CUSTOM:{custom.decode(errors="replace")}'
  return name


def _parse_tensor(table, buffers) -> Tensor:
  buffer = buffers[table.buffer]
  # Data of files beyond 2 GB lies behind the table, found by offset and size.
  stored = 0 if buffer.data is None else len(buffer.data)
  quantization = table.quantization
  scales = getattr(quantization, 'scale', None)
  zeros = getattr(quantization, 'zeroPoint', None)
  return Tensor(
    name=(table.name or b'').decode(errors='replace'),
    dtype=_DTYPE_NAMES[table.type],
    shape=tuple(
      int(n) for n in (table.shape if table.shape is not None else [])
    ),
    constant_bytes=int(stored or getattr(buffer, 'size', 0) or 0),
    buffer=table.buffer,
    scales=tuple(float(s) for s in (scales if scales is not None else [])),
    zero_points=tuple(int(z) for z in (zeros if zeros is not None else [])),
  )


def read_tflite(data: bytes) -> Graph:
  """Parses the bytes of a .tflite file.

  Raises:
    ValueError: they are none, or they are damaged.
  """
  if data[4:8] != b'TFL3':
    raise ValueError(
      f'not a .tflite file: bytes 4 to 8 are {data[4:8]!r}, not TFL3'
    )
  try:
    return _parse_graph(data)
  except _PARSE_ERRORS as error:
    raise ValueError(f'the .tflite file is damaged: {error}') from error


def _parse_graph(data: bytes) -> Graph:
  model = schema.ModelT.InitFromPackedBuf(data, 0)
  main = model.subgraphs[0]
  codes = [operator_name(code) for code in model.operatorCodes]
  indices = lambda xs: tuple(int(i) for i in xs if i >= 0)
  return Graph(
    tensors=tuple(_parse_tensor(t, model.buffers) for t in main.tensors),
    operators=tuple(
      Operator(codes[op.opcodeIndex], indices(op.inputs), indices(op.outputs))
      for op in main.operators
    ),
    inputs=indices(main.inputs),
    outputs=indices(main.outputs),
    subgraphs=len(model.subgraphs),
  )


def count_operators(graph: Graph) -> dict[str, int]:
  """Counts operators by name, most frequent first."""
  counts: dict[str, int] = {}
  for op in graph.operators:
    counts[op.name] = counts.get(op.name, 0) + 1
  return dict(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))


def count_operator_dtypes(graph: Graph) -> dict[str, dict[str, int]]:
  """Counts, operator by operator, the dtype of the first output."""
  result: dict[str, dict[str, int]] = {
    name: {} for name in count_operators(graph)
  }
  for op in graph.operators:
    counts, dtype = result[op.name], graph.tensors[op.outputs[0]].dtype
    counts[dtype] = counts.get(dtype, 0) + 1
  return result


def weight_bytes(graph: Graph) -> int:
  """Bytes of all constants that operators read, biases and shapes included.

  Data which several tensors share counts once; tables around it do not.
  """
  read_ = {i for op in graph.operators for i in op.inputs}
  constants = {
    graph.tensors[i].buffer: graph.tensors[i].constant_bytes for i in read_
  }
  return sum(constants.values())


def count_macs(graph: Graph) -> int:
  """Multiply-accumulates of convolutions and matrix products, padding counted.

  Element-wise operators, resizes and pooling count as none.
  """
  total = 0
  for op in graph.operators:
    shapes = [graph.tensors[i].shape for i in op.inputs]
    out = math.prod(graph.tensors[op.outputs[0]].shape)
    if op.name == 'CONV_2D':
      total += out * math.prod(shapes[1][1:])
    elif op.name == 'DEPTHWISE_CONV_2D':
      total += out * math.prod(shapes[1][1:3])
    elif op.name == 'FULLY_CONNECTED':
      total += out * shapes[1][-1]
    elif op.name == 'BATCH_MATMUL':
      total += out * shapes[0][-1]
    elif op.name == 'TRANSPOSE_CONV':
      total += math.prod(shapes[2]) * math.prod(shapes[1][:3])
  return total


def tensor_qparams(tensor: Tensor) -> dict[str, float | int] | None:
  """Returns {'scale', 'zero_point'} of a per-tensor quantised tensor.

  real = (quantised - zero_point) * scale. None for any other tensor.
  """
  if len(tensor.scales) != 1:
    return None
  # Scales are float32; their shortest decimal form is what belongs in JSON.
  return {
    'scale': float(str(np.float32(tensor.scales[0]))),
    'zero_point': tensor.zero_points[0],
  }


def output_scale(graph: Graph) -> float | None:
  """Returns the step of a file's output, also behind a DEQUANTIZE, or None."""
  (output,) = graph.outputs
  for op in graph.operators:
    if op.name == 'DEQUANTIZE' and output in op.outputs:
      output = op.inputs[0]
  scales = graph.tensors[output].scales
  return scales[0] if scales else None


class BadGraph(ValueError):
  """A file holds an operator that must not be in it."""
