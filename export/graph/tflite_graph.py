"""The graph of a .tflite file: operators, tensors, constants, MACs.

`read_tflite` parses the bytes; the functions after it summarize the graph.
Whether a device can run it is judged in `checks`, its memory is planned in
`memory`, and `trace` builds the same graph from a network without a file.
"""

import dataclasses
import math
import struct
from typing import Any

from ai_edge_litert import schema_py_generated as schema
import numpy as np

from deeplab import tflite_schema

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
# Offsets and sizes in a damaged file can point anywhere.
_PARSE_ERRORS = (
  *(struct.error, ArithmeticError, AttributeError, LookupError),
  *(MemoryError, TypeError, UnicodeDecodeError),
)


class BadGraph(ValueError):
  """A graph has operators or tensors that it must not have."""


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a graph.

  Attributes:
    name: name in the file.
    dtype: lower-case name, such as 'int8'.
    shape: static shape.
    constant_bytes: bytes stored in the file, 0 for activations.
    buffer: index of the stored data; tensors may share it.
    scales: quantization scales: () if not quantized, one per tensor, or one per
      channel.
    zero_points: as many as `scales`.
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
    """Bytes in memory, without padding.

    Raises:
      BadGraph: the dtype has no fixed size, as 'string'.
    """
    if self.dtype not in _DTYPE_BITS:
      raise BadGraph(f'tensor {self.name!r} has no fixed size: {self.dtype}')
    return -(-math.prod(self.shape) * _DTYPE_BITS[self.dtype] // 8)


@dataclasses.dataclass(frozen=True)
class Operator:
  """One operator.

  Attributes:
    name: TFLite name, such as 'CONV_2D'.
    inputs: tensor indices, without absent optional inputs.
    outputs: tensor indices.
  """

  name: str
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
  """The main subgraph of a file.

  Attributes:
    tensors: all tensors.
    operators: all operators, in execution order.
    inputs: tensor indices that the caller sets.
    outputs: tensor indices that the caller reads.
    subgraphs: number of subgraphs in the file; 1 if nothing is nested.
  """

  tensors: tuple[Tensor, ...]
  operators: tuple[Operator, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  subgraphs: int

  def is_constant(self, index: int) -> bool:
    """Returns True if the tensor's data is stored in the file."""
    return self.tensors[index].constant_bytes > 0


def read_tflite(data: bytes) -> Graph:
  """Parses the bytes of a .tflite file.

  Raises:
    ValueError: the bytes are not a .tflite file, or it is damaged.
  """
  if not tflite_schema.has_identifier(data):
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
  names = [tflite_schema.operator_name(code) for code in model.operatorCodes]
  indices = lambda xs: tuple(int(i) for i in xs if i >= 0)
  return Graph(
    tensors=tuple(_parse_tensor(t, model.buffers) for t in main.tensors),
    operators=tuple(
      Operator(names[op.opcodeIndex], indices(op.inputs), indices(op.outputs))
      for op in main.operators
    ),
    inputs=indices(main.inputs),
    outputs=indices(main.outputs),
    subgraphs=len(model.subgraphs),
  )


def _parse_tensor(table: Any, buffers: Any) -> Tensor:
  buffer = buffers[table.buffer]
  # In files of more than 2 GB the data lies after the flatbuffer, and the
  # buffer has its offset and size only.
  stored = 0 if buffer.data is None else len(buffer.data)
  quantization = table.quantization
  scales = getattr(quantization, 'scale', None)
  zero_points = getattr(quantization, 'zeroPoint', None)
  # The generated schema returns None for an empty vector, else an array.
  as_tuple = lambda values, kind: (
    () if values is None else tuple(kind(value) for value in values)
  )
  return Tensor(
    name=(table.name or b'').decode(errors='replace'),
    dtype=tflite_schema.DTYPE_NAMES[table.type],
    shape=as_tuple(table.shape, int),
    constant_bytes=int(stored or getattr(buffer, 'size', 0) or 0),
    buffer=table.buffer,
    scales=as_tuple(scales, float),
    zero_points=as_tuple(zero_points, int),
  )


def count_operators(graph: Graph) -> dict[str, int]:
  """Counts operators by name, most frequent first."""
  counts: dict[str, int] = {}
  for op in graph.operators:
    counts[op.name] = counts.get(op.name, 0) + 1
  return dict(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))


def count_operator_dtypes(graph: Graph) -> dict[str, dict[str, int]]:
  """Counts the dtype of the first output for each operator name."""
  result: dict[str, dict[str, int]] = {
    name: {} for name in count_operators(graph)
  }
  for op in graph.operators:
    counts, dtype = result[op.name], graph.tensors[op.outputs[0]].dtype
    counts[dtype] = counts.get(dtype, 0) + 1
  return result


def weight_bytes(graph: Graph) -> int:
  """Returns the bytes of all constants that operators read.

  Biases and shapes are included. Data that several tensors share counts once;
  the flatbuffer tables around it do not count.
  """
  inputs = {i for op in graph.operators for i in op.inputs}
  bytes_by_buffer = {
    graph.tensors[i].buffer: graph.tensors[i].constant_bytes for i in inputs
  }
  return sum(bytes_by_buffer.values())


def count_macs(graph: Graph) -> int:
  """Counts multiply-accumulates of convolutions and matrix products.

  Products with padding are included. Element-wise operators, resizes and
  pooling count as none.
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
  """Returns the `scale` and `zero_point` of a tensor quantized per tensor.

  real = (quantized - zero_point) * scale. None for any other tensor.
  """
  if len(tensor.scales) != 1:
    return None
  # Scales are float32; their shortest decimal form is what belongs in JSON.
  return {
    'scale': float(str(np.float32(tensor.scales[0]))),
    'zero_point': tensor.zero_points[0],
  }


def output_scale(graph: Graph) -> float | None:
  """Returns the scale of the output, one LSB; None if it is not quantized.

  A float output after a DEQUANTIZE has the scale of that operator's input.
  """
  (output,) = graph.outputs
  for op in graph.operators:
    if op.name == 'DEQUANTIZE' and output in op.outputs:
      output = op.inputs[0]
  scales = graph.tensors[output].scales
  return scales[0] if scales else None
