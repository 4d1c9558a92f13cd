"""Converts .tflite files to ONNX with tf2onnx.

float32 files stay float32; int8 files become float operators between pairs of
QuantizeLinear and DequantizeLinear, which ONNX Runtime runs in int8.
"""

import collections
import os
import tempfile
from typing import Any
import warnings

from deeplab import system

# The newest opset that tf2onnx supports in full, in ONNX Runtime since 1.12.
OPSET = 17


def convert_tflite(content: bytes) -> bytes:
  """Converts a .tflite file; inputs and outputs stay NHWC.

  Args:
    content: bytes of the file.

  Returns:
    The bytes of the .onnx file, of opset `OPSET`.

  Raises:
    ValueError: tf2onnx cannot convert the file, for an unknown operator say.
  """
  with (
    tempfile.TemporaryDirectory() as folder,
    system.capture_stderr(),
    warnings.catch_warnings(),
  ):
    warnings.simplefilter('ignore')  # about TensorFlow's own interpreter
    import onnx
    from tf2onnx import convert as tf2onnx

    path = os.path.join(folder, 'model.tflite')
    with open(path, 'wb') as f:
      f.write(content)
    try:
      model, _ = tf2onnx.from_tflite(path, opset=OPSET)
      _split_shared_zero_points(model.graph)
      onnx.checker.check_model(model)
    except Exception as error:  # of many types
      raise ValueError(f'tf2onnx cannot convert the file: {error}') from error
  return model.SerializeToString()


def _split_shared_zero_points(graph: Any) -> None:
  """Gives every int8 kernel of an `onnx.GraphProto` its own zero point.

  tf2onnx stores equal zero points once. On x86 CPUs without VNNI,
  `session.x64quantprecision` makes ONNX Runtime rewrite kernels as uint8 with
  their zero points, one kernel at a time, and loading fails when it rewrites a
  zero point for the second time.
  """
  from onnx import TensorProto

  constants = {tensor.name: tensor for tensor in graph.initializer}
  uses = collections.Counter(name for node in graph.node for name in node.input)
  for node in graph.node:
    if node.op_type != 'DequantizeLinear' or node.input[0] not in constants:
      continue
    zero_point = constants[node.input[2]]
    if zero_point.data_type != TensorProto.INT8 or uses[zero_point.name] < 2:
      continue
    uses[zero_point.name] -= 1
    own = graph.initializer.add()
    own.CopyFrom(zero_point)
    own.name = f'{node.name}_zero_point'
    node.input[2] = own.name


def summarize_onnx(content: bytes) -> dict[str, Any]:
  """Summarizes an .onnx file.

  Args:
    content: bytes of the file.

  Returns:
    `weight_bytes`, `operators` (name -> count, most frequent first) and
    `opset`.
  """
  import onnx

  model = onnx.load_from_string(content)
  counts = collections.Counter(node.op_type for node in model.graph.node)
  return {
    'weight_bytes': sum(
      tensor.ByteSize() for tensor in model.graph.initializer
    ),
    'operators': dict(sorted(counts.items(), key=lambda x: (-x[1], x[0]))),
    'opset': model.opset_import[0].version,
  }
