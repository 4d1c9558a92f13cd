"""Rejects .tflite files whose operators or dtypes a device cannot run.

A converter does not always report what it could not lower: it may leave a Flex,
custom or STABLEHLO_COMPOSITE operator that one runtime accepts and the device
does not, or float arithmetic in a file that is called int8.
"""

from collections.abc import Iterator
import dataclasses
import math

from export.graph import tflite_graph

_FLOAT_DTYPES = ('float64', 'float32', 'float16', 'bfloat16')
# A constant of at least this many elements is a weight, not a parameter.
_MIN_WEIGHT_ELEMENTS = 64
_INTEGER_FORMATS = ('int8', 'int16x8')
# Operators that plain builds of LiteRT and TFLite Micro do not have.
_UNSUPPORTED_PREFIXES = ('CUSTOM', 'DELEGATE', 'STABLEHLO_', 'UNKNOWN_')
_MAX_REPORTED = 3


@dataclasses.dataclass(frozen=True)
class _Expected:
  """The expected properties of a file: arguments of `check_graph`."""

  kind: str
  input_type: str
  output_type: str
  weights: str
  floats_allowed: bool


def check_graph(
  graph: tflite_graph.Graph,
  name: str,
  kind: str,
  input_type: str = 'float32',
  output_type: str = 'float32',
  weights: str = 'channel',
  floats_allowed: bool = False,
) -> None:
  """Rejects a file that a device cannot run, or that its name misdescribes.

  No file may have a Flex, custom or StableHLO operator. In an int8 file the
  only float operators are a QUANTIZE of the graph's input and a DEQUANTIZE to
  its output, if those were requested in float, and convolutions have one weight
  scale per channel, or per tensor. A float16 file stores no large constant as
  float32.

  Args:
    graph: graph of the file.
    name: name of the file in the error message.
    kind: 'float32', 'float16', 'int8' or 'int16x8'.
    input_type: requested dtype of the input.
    output_type: requested dtype of the output.
    weights: 'channel' or 'tensor', the granularity of weight scales in an
      integer file.
    floats_allowed: some layers of an integer file were requested in float.

  Raises:
    BadGraph: names the first operators and tensors at fault.
  """
  violations = list(
    _graph_violations(
      graph,
      _Expected(kind, input_type, output_type, weights, floats_allowed),
    )
  )
  if violations:
    hidden = len(violations) - _MAX_REPORTED
    rest = f', and {hidden} more' if hidden > 0 else ''
    raise tflite_graph.BadGraph(
      f'{name} is refused: {"; ".join(violations[:_MAX_REPORTED])}{rest}'
    )


def _graph_violations(
  graph: tflite_graph.Graph, expected: _Expected
) -> Iterator[str]:
  """Yields a phrase per violation, operators first."""
  if graph.subgraphs != 1:
    yield f'it has {graph.subgraphs} subgraphs, where one is all that is needed'
  for op in graph.operators:
    if op.name.startswith(_UNSUPPORTED_PREFIXES):
      yield f'{_describe(graph, op)} is no builtin operator'
      continue
    if expected.kind == 'float16':
      yield from _float32_weights(graph, op)
    if expected.kind in _INTEGER_FORMATS:
      yield from _wrong_weight_scales(graph, op, expected.weights)
      if not expected.floats_allowed:
        yield from _float_arithmetic(graph, op, expected)
  yield from _wrong_io_types(graph, expected)


def _float32_weights(
  graph: tflite_graph.Graph, op: tflite_graph.Operator
) -> Iterator[str]:
  """Yields the large constants of a float16 file that are float32."""
  for tensor in (graph.tensors[i] for i in op.inputs if graph.is_constant(i)):
    if (
      tensor.dtype == 'float32'
      and math.prod(tensor.shape) >= _MIN_WEIGHT_ELEMENTS
    ):
      yield (
        f'{_describe(graph, op)} reads {tensor.name!r}, which is stored as '
        'float32'
      )


def _wrong_weight_scales(
  graph: tflite_graph.Graph, op: tflite_graph.Operator, weights: str
) -> Iterator[str]:
  """Yields a convolution whose int8 kernel has the wrong number of scales."""
  if op.name not in ('CONV_2D', 'DEPTHWISE_CONV_2D'):
    return
  kernel = graph.tensors[op.inputs[1]]
  channels = graph.tensors[op.outputs[0]].shape[-1]
  expected = channels if weights == 'channel' else 1
  if kernel.dtype == 'int8' and len(kernel.scales) != expected:
    yield (
      f'{_describe(graph, op)} has {len(kernel.scales)} weight scales for '
      f'{channels} channels, not one per {weights}'
    )


def _float_arithmetic(
  graph: tflite_graph.Graph, op: tflite_graph.Operator, expected: _Expected
) -> Iterator[str]:
  """Yields an operator that computes in float."""
  if _is_io_cast(graph, op, expected):
    return
  tensors = [graph.tensors[i] for i in (*op.inputs, *op.outputs)]
  floats = [t for t in tensors if t.dtype in _FLOAT_DTYPES]
  if floats:
    yield (
      f'{_describe(graph, op)} is a float operator: {floats[0].name!r} is '
      f'{floats[0].dtype}'
    )


def _is_io_cast(
  graph: tflite_graph.Graph, op: tflite_graph.Operator, expected: _Expected
) -> bool:
  """Returns True if an operator only casts a float input or output."""
  if op.name == 'QUANTIZE':
    return expected.input_type == 'float32' and set(op.inputs) <= set(
      graph.inputs
    )
  if op.name == 'DEQUANTIZE':
    return expected.output_type == 'float32' and set(op.outputs) <= set(
      graph.outputs
    )
  return False


def _wrong_io_types(
  graph: tflite_graph.Graph, expected: _Expected
) -> Iterator[str]:
  """Yields the inputs and outputs of another dtype than requested."""
  for end, indices, dtype in (
    ('input', graph.inputs, expected.input_type),
    ('output', graph.outputs, expected.output_type),
  ):
    for tensor in (graph.tensors[i] for i in indices):
      if tensor.dtype != dtype:
        yield f'{end} tensor {tensor.name!r} is {tensor.dtype}, not {dtype}'


def _describe(graph: tflite_graph.Graph, op: tflite_graph.Operator) -> str:
  """Names an operator by the tensor that it makes."""
  tensor = graph.tensors[(*op.inputs, *op.outputs)[-1]]
  return f'{op.name} (makes tensor {tensor.name!r})'
