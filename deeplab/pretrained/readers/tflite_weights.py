"""Reads the weights of .tflite files, float or quantized.

A converted network has its BatchNorms folded into the convolutions before them,
so a layer has only a kernel and a bias; `unfold_batch_norm` restores the rest.
"""

from collections.abc import Iterator
import math
import os
import pathlib
import re
import struct
from typing import Any

from ai_edge_litert import schema_py_generated as schema
import numpy as np

from deeplab import tflite_schema
from deeplab.pretrained import merge
from deeplab.pretrained.readers import limits

# Stored dtypes that weights and biases may have; little-endian in the file.
_DTYPES = {
  'float32': '<f4',
  'float16': '<f2',
  'int64': '<i8',
  'int32': '<i4',
  'int16': '<i2',
  'int8': 'i1',
  'uint8': 'u1',
}

# Operators with weights [out, h, w, in], [1, h, w, out] and [out, in].
LAYER_OPERATORS = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED')
# Operators that may hold further weights: files with such weights are rejected,
# since they would be lost silently.
_UNSUPPORTED_OPERATORS = (
  'ADD',
  'SUB',
  'MUL',
  'DIV',
  'TRANSPOSE_CONV',
  'CONV_3D',
  'PRELU',
)

# An empty list and its share of an operator; in the file it takes a tenth.
_LIST_BYTES = 128

# Suffixes that follow a layer's name in the name of its kernel: the variable's,
# the operation's, or that of the kernel with its BatchNorm folded in.
_KERNEL_SUFFIX = re.compile(
  r'/(weights|depthwise_weights|kernel|Conv2D|depthwise|MatMul|Conv2D_Fold|'
  r'depthwise_Fold|weights_quant/\w+)\d*$'
)
_BATCH_NORM_SUFFIX = re.compile(
  r'/(BatchNorm|batch_norm|FusedBatchNorm\w*)(/.*)?$'
)


def layer_name(tensor: str) -> str:
  """Returns the name of the layer that a kernel belongs to.

  Converters join the names of all operations folded into a constant by ';': the
  layer's own first, then those of other layers.

  Args:
    tensor: name of the kernel in the file.
  """
  parts = [
    part.removeprefix('StatefulPartitionedCall/') for part in tensor.split(';')
  ]
  for part in parts:
    if _KERNEL_SUFFIX.search(part):
      return _KERNEL_SUFFIX.sub('', part)
  return _BATCH_NORM_SUFFIX.sub('', parts[0])


class _UnsupportedFile(ValueError):
  """A valid file whose weights cannot be imported."""


def _element(table: Any, vector: str, index: int) -> Any:
  """Returns an element of a vector of tables, such as 'Tensors'.

  Raises:
    ValueError: it has no such element; LiteRT's module would read past its end.
  """
  length = getattr(table, f'{vector}Length')()
  if not 0 <= index < length:
    raise ValueError(f'{vector} has {length} elements, none has number {index}')
  return getattr(table, vector)(index)


def _shape(tensor: schema.Tensor) -> list[int]:
  if tensor.ShapeIsNone():
    return []
  shape = tensor.ShapeAsNumpy().tolist()
  if any(n < 0 for n in shape):
    raise ValueError(f'a constant has the shape {shape}')
  return shape


class _TFLiteFile:
  """The main graph of a file and its constants.

  Tables are read where they are needed: offsets of a damaged file may point
  anywhere, and to unpack them all could take hours.
  """

  def __init__(self, content: bytes):
    self._content = content
    self._budget = limits.ByteBudget(len(content))
    self._model = schema.Model.GetRootAs(content, 0)
    self._graph = _element(self._model, 'Subgraphs', 0)
    names: dict[int, str] = {}
    self.operators: list[tuple[str, list[int], list[int]]] = []
    for i in range(self._graph.OperatorsLength()):
      op = self._graph.Operators(i)
      code = op.OpcodeIndex()
      if code not in names:
        names[code] = self._operator_name(code)
      inputs, outputs = (
        self._indices(op, vector) for vector in ('Inputs', 'Outputs')
      )
      self.operators.append((names[code], inputs, outputs))
    # A kernel stored in float16 is converted by a DEQUANTIZE operator.
    self._stored = {
      outputs[0]: inputs[0]
      for kind, inputs, outputs in self.operators
      if kind == 'DEQUANTIZE'
    }

  def _operator_name(self, code: int) -> str:
    table = _element(self._model, 'OperatorCodes', code)
    name = tflite_schema.operator_name(schema.OperatorCodeT.InitFromObj(table))
    self._budget.spend(len(name))
    return name

  def _indices(self, op: schema.Operator, vector: str) -> list[int]:
    """Returns the numbers of an operator's 'Inputs' or 'Outputs'."""
    if getattr(op, f'{vector}IsNone')():
      return []
    numbers = getattr(op, f'{vector}AsNumpy')()
    self._budget.spend(_LIST_BYTES + 8 * numbers.size)
    return numbers.tolist()

  def _tensor(self, index: int) -> schema.Tensor:
    return _element(self._graph, 'Tensors', self._stored.get(index, index))

  def tensor_name(self, index: int) -> str:
    """Returns the name of a tensor."""
    name = self._tensor(index).Name() or b''
    self._budget.spend(len(name))
    return name.decode()

  def map_size(self, index: int) -> tuple[int, int] | None:
    """Returns (H, W) of a feature map; None for a tensor without both."""
    shape = _shape(_element(self._graph, 'Tensors', index))
    return (shape[1], shape[2]) if len(shape) == 4 else None

  def num_elements(self, index: int) -> int:
    """Returns the number of elements of a constant; 0 for other tensors."""
    tensor = self._tensor(index)
    if self._stored_bytes(tensor) is None:
      return 0
    return math.prod(_shape(tensor))

  def _stored_bytes(self, tensor: schema.Tensor) -> Any:
    """Returns the stored bytes of a tensor, None if it is not constant."""
    buffer = _element(self._model, 'Buffers', tensor.Buffer())
    if buffer.DataLength():
      return buffer.DataAsNumpy()
    if buffer.Size():  # large files store the data after the flatbuffer
      start = buffer.Offset()
      return memoryview(self._content)[start : start + buffer.Size()]
    return None

  def dequantized_constant(self, index: int) -> np.ndarray:
    """Returns a constant in float32, dequantized.

    Raises:
      _UnsupportedFile: the tensor is not constant, or its type or quantization
        is unsupported.
    """
    tensor = self._tensor(index)
    data = self._stored_bytes(tensor)
    if data is None:
      raise _UnsupportedFile(
        f'tensor {self.tensor_name(index)!r} is not constant'
      )
    kind = tflite_schema.DTYPE_NAMES.get(tensor.Type(), str(tensor.Type()))
    if kind not in _DTYPES:
      raise _UnsupportedFile(
        f'tensor {self.tensor_name(index)!r} is of type {kind}, which cannot '
        f'be imported; known are {", ".join(_DTYPES)}'
      )
    stored = np.frombuffer(data, _DTYPES[kind]).reshape(_shape(tensor))
    self._budget.spend(4 * stored.size)
    values = stored.astype(np.float32)
    if stored.dtype.kind == 'f':
      return values
    quantization = tensor.Quantization()
    if quantization is None or not quantization.ScaleLength():
      raise _UnsupportedFile(
        f'tensor {self.tensor_name(index)!r} holds integers without a scale'
      )
    # In float64: an int32 bias has more digits than float32.
    scales, zeros = (
      np.asarray(numbers, np.float64)
      for numbers in (
        quantization.ScaleAsNumpy(),
        quantization.ZeroPointAsNumpy(),
      )
    )
    along = [1] * values.ndim
    if len(scales) > 1:
      axis = quantization.QuantizedDimension()
      along[axis] = values.shape[axis]
    return ((stored - zeros.reshape(along)) * scales.reshape(along)).astype(
      np.float32
    )

  def iterate_layers(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields name, kernel and bias of each layer, in execution order.

    Raises:
      _UnsupportedFile: a constant is unsupported, or another operator holds
        weights.
    """
    read: set[int] = set()
    for kind, indices, _ in self.operators:
      inputs = [i for i in indices if i >= 0]
      # Before the first layer such an operator normalizes the image.
      if kind in _UNSUPPORTED_OPERATORS and read:
        weights = [
          self.tensor_name(i) for i in inputs if self.num_elements(i) > 1
        ]
        if weights:
          raise _UnsupportedFile(
            f'{kind} reads the constant {weights[0]!r}, which belongs to no '
            'convolution: convert the model with its BatchNorms folded'
          )
      # A layer that is applied twice has one kernel.
      if kind not in LAYER_OPERATORS or inputs[1] in read:
        continue
      read.add(inputs[1])
      if kind == 'FULLY_CONNECTED' and not self.num_elements(inputs[1]):
        continue  # a product of two activations
      kernel = self.dequantized_constant(inputs[1])
      outputs = kernel.shape[3 if kind == 'DEPTHWISE_CONV_2D' else 0]
      bias = np.zeros(outputs, np.float32)
      if len(inputs) > 2:
        bias = self.dequantized_constant(inputs[2])
      yield layer_name(self.tensor_name(inputs[1])), kernel, bias


def read_tflite(path: str | os.PathLike) -> merge.Tensors:
  """Reads the kernels and biases of a .tflite file.

  Args:
    path: a float32, float16 or quantized (int8 or uint8, per tensor or per
      channel) file.

  Returns:
    'LAYER/weights' and 'LAYER/biases' (zeros where there is none) of each
    convolution and fully connected layer, float32. Kernels are [out, h, w, in],
    depthwise ones [1, h, w, out], fully connected ones [out, in]. LAYER is the
    result of `layer_name`; further layers of the same name get the suffixes
    ':1', ':2', in execution order.

  Raises:
    ValueError: the file does not exist, is not a TensorFlow Lite file, is
      damaged, or has weights of an unsupported type or outside convolutions.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'there is no file {path}')
  content = path.read_bytes()
  if not tflite_schema.has_identifier(content):
    raise ValueError(
      f'{path} is not a TensorFlow Lite file; export or download it again'
    )
  tensors: dict[str, np.ndarray] = {}
  try:
    for layer, kernel, bias in _TFLiteFile(content).iterate_layers():
      name, copies = layer, 0
      while f'{name}/weights' in tensors:
        copies += 1
        name = f'{layer}:{copies}'
      tensors[f'{name}/weights'] = kernel
      tensors[f'{name}/biases'] = bias
  except _UnsupportedFile as e:
    raise ValueError(f'{path}: {e}') from None
  except (AttributeError, IndexError, TypeError, struct.error, ValueError) as e:
    raise ValueError(
      f'{path} is damaged or cut short: download it again ({e})'
    ) from e
  return tensors


def read_layer_sizes(path: str | os.PathLike) -> dict[str, tuple[int, int]]:
  """Reads the sizes of the maps that the layers of a .tflite file read.

  They tell the input size and the output stride of the network, which the
  weights do not.

  Args:
    path: a file that `read_tflite` reads.

  Returns:
    (H, W) by LAYER, in execution order: that of the first layer is the size of
    the image. Layers whose input is no map are left out.
  """
  file = _TFLiteFile(pathlib.Path(path).read_bytes())
  sizes: dict[str, tuple[int, int]] = {}
  for kind, inputs, _ in file.operators:
    if kind in LAYER_OPERATORS:
      size = file.map_size(inputs[0])
      if size is not None:
        sizes.setdefault(layer_name(file.tensor_name(inputs[1])), size)
  return sizes
