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


class _TFLiteFile:
  """The main graph of a file and its constants."""

  def __init__(self, content: bytes):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    self._content = content
    self._buffers = model.buffers
    self._tensors = model.subgraphs[0].tensors
    self.operators = [
      (tflite_schema.operator_name(model.operatorCodes[op.opcodeIndex]), op)
      for op in model.subgraphs[0].operators
    ]
    # A kernel stored in float16 is converted by a DEQUANTIZE operator.
    self._stored = {
      int(op.outputs[0]): int(op.inputs[0])
      for kind, op in self.operators
      if kind == 'DEQUANTIZE'
    }

  def _tensor(self, index: int) -> Any:
    return self._tensors[self._stored.get(index, index)]

  def tensor_name(self, index: int) -> str:
    """Returns the name of a tensor."""
    return self._tensor(index).name.decode()

  def num_elements(self, index: int) -> int:
    """Returns the number of elements of a constant; 0 for other tensors."""
    tensor = self._tensor(index)
    if self._stored_bytes(tensor) is None:
      return 0
    return math.prod(tensor.shape) if tensor.shape is not None else 1

  def _stored_bytes(self, tensor: Any) -> Any:
    """Returns the stored bytes of a tensor, None if it is not constant."""
    buffer = self._buffers[tensor.buffer]
    if buffer.data is not None and len(buffer.data):
      return buffer.data
    if buffer.size:  # large files store the data after the flatbuffer
      return self._content[buffer.offset : buffer.offset + buffer.size]
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
    kind = tflite_schema.DTYPE_NAMES.get(tensor.type, str(tensor.type))
    if kind not in _DTYPES:
      raise _UnsupportedFile(
        f'tensor {self.tensor_name(index)!r} is of type {kind}, which cannot '
        f'be imported; known are {", ".join(_DTYPES)}'
      )
    shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
    stored = np.frombuffer(bytes(data), _DTYPES[kind]).reshape(shape)
    values = stored.astype(np.float32)
    if stored.dtype.kind == 'f':
      return values
    quantization = tensor.quantization
    scales = getattr(quantization, 'scale', None)
    if scales is None or not len(scales):
      raise _UnsupportedFile(
        f'tensor {self.tensor_name(index)!r} holds integers without a scale'
      )
    along = [1] * values.ndim
    if len(scales) > 1:
      along[quantization.quantizedDimension] = len(scales)
    # In float64: an int32 bias has more digits than float32.
    zeros = np.reshape(np.asarray(quantization.zeroPoint, np.float64), along)
    scales = np.reshape(np.asarray(scales, np.float64), along)
    return ((stored - zeros) * scales).astype(np.float32)

  def iterate_layers(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields name, kernel and bias of each layer, in execution order.

    Raises:
      _UnsupportedFile: a constant is unsupported, or another operator holds
        weights.
    """
    read: set[int] = set()
    for kind, op in self.operators:
      inputs = [int(i) for i in op.inputs if i >= 0]
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
    raise ValueError(f'{path} is not a TensorFlow Lite file')
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
