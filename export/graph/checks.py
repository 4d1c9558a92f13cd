"""Rejects .tflite files whose operators or dtypes a device cannot run.

A converter that could not lower something does not always say so: it may
leave a Flex, custom or STABLEHLO_COMPOSITE operator that one runtime accepts
and the device does not, or float arithmetic in a file that is called int8.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import math

from export.graph import tflite_graph

_FLOAT_DTYPES = ('float64', 'float32', 'float16', 'bfloat16')
# Elements from which on a constant is a weight rather than a parameter.
_MIN_WEIGHT_ELEMENTS = 64
_INTEGER_FORMATS = ('int8', 'int16x8')


# What plain LiteRT and TFLite Micro builds do not run.
_UNSUPPORTED_PREFIXES = ('CUSTOM', 'DELEGATE', 'STABLEHLO_', 'UNKNOWN_')


def _is_io_cast(
  graph: tflite_graph.Graph,
  op: tflite_graph.Operator,
  input_type: str,
  output_type: str,
) -> bool:
  """Whether a float operator only carries the caller's float in or out."""
  if op.name == 'QUANTIZE':
    return input_type == 'float32' and set(op.inputs) <= set(graph.inputs)
  if op.name == 'DEQUANTIZE':
    return output_type == 'float32' and set(op.outputs) <= set(graph.outputs)
  return False


def _weight_violations(
  graph: tflite_graph.Graph, op: tflite_graph.Operator, kind: str, weights: str
) -> Iterator[str]:
  """Yields what is wrong with the stored weights of one operator."""
  where = f'{op.name} (makes tensor {graph.tensors[op.outputs[0]].name!r})'
  constants = [graph.tensors[i] for i in op.inputs if graph.is_constant(i)]
  if kind == 'float16':
    for tensor in constants:
      if (
        tensor.dtype == 'float32'
        and math.prod(tensor.shape) >= _MIN_WEIGHT_ELEMENTS
      ):
        yield f'{where} reads {tensor.name!r}, which is stored as float32'
  if kind in _INTEGER_FORMATS and op.name in ('CONV_2D', 'DEPTHWISE_CONV_2D'):
    kernel = graph.tensors[op.inputs[1]]
    channels = graph.tensors[op.outputs[0]].shape[-1]
    wanted = channels if weights == 'channel' else 1
    if kernel.dtype == 'int8' and len(kernel.scales) != wanted:
      yield (
        f'{where} has {len(kernel.scales)} weight scales for {channels} '
        f'channels, not one a {weights}'
      )


def _graph_violations(
  graph: tflite_graph.Graph,
  kind: str,
  input_type: str,
  output_type: str,
  weights: str,
  floats_allowed: bool,
) -> Iterator[str]:
  if graph.subgraphs != 1:
    yield f'it has {graph.subgraphs} subgraphs, where one is all that is needed'
  for op in graph.operators:
    tensors = [graph.tensors[i] for i in (*op.inputs, *op.outputs)]
    where = f'{op.name} (makes tensor {tensors[-1].name!r})'
    if op.name.startswith(_UNSUPPORTED_PREFIXES):
      yield f'{where} is no builtin operator'
      continue
    yield from _weight_violations(graph, op, kind, weights)
    if (
      kind in _INTEGER_FORMATS
      and not floats_allowed
      and not _is_io_cast(graph, op, input_type, output_type)
    ):
      floats = [t for t in tensors if t.dtype in _FLOAT_DTYPES]
      if floats:
        yield (
          f'{where} is a float operator: {floats[0].name!r} is '
          f'{floats[0].dtype}'
        )
  ends: Sequence[tuple[str, tuple[int, ...], str]] = (
    ('input', graph.inputs, input_type),
    ('output', graph.outputs, output_type),
  )
  for end, indices, wanted in ends:
    for tensor in (graph.tensors[i] for i in indices):
      if tensor.dtype != wanted:
        yield f'{end} tensor {tensor.name!r} is {tensor.dtype}, not {wanted}'


def check_graph(
  graph: tflite_graph.Graph,
  name: str,
  kind: str,
  input_type: str = 'float32',
  output_type: str = 'float32',
  weights: str = 'channel',
  floats_allowed: bool = False,
) -> None:
  """Refuses a file that a device could not run, or not as it is called.

  No Flex, custom or StableHLO operator may be in any file. In an int8 file
  float is allowed only in a QUANTIZE of the graph's input and a DEQUANTIZE
  into its output, if those were asked for in float, and convolutions have one
  weight scale a channel, or a tensor. A float16 file stores no large constant
  as float32.

  Args:
    graph: the file's graph.
    name: the file, for the message.
    kind: 'float32', 'float16', 'int8' or 'int16x8'.
    input_type: dtype the input was asked in.
    output_type: dtype the output was asked in.
    weights: 'channel' or 'tensor', what has one scale in an integer file.
    floats_allowed: some layers of an integer file were asked for in float.

  Raises:
    BadGraph: operators and tensors at fault, by name.
  """
  complaints = list(
    _graph_violations(
      graph, kind, input_type, output_type, weights, floats_allowed
    )
  )
  if complaints:
    rest = f', and {len(complaints) - 3} more' if len(complaints) > 3 else ''
    raise tflite_graph.BadGraph(
      f'{name} is refused: {"; ".join(complaints[:3])}{rest}'
    )
