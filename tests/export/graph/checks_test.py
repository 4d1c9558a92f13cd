"""Checks of .tflite files made by hand, as converters can leave them."""

import pytest

from export.graph import checks
from export.graph import tflite_graph
from tests.export import handmade


def test_an_int8_convolution_passes():
  graph = tflite_graph.read_tflite(handmade.convolution())
  checks.check_graph(graph, 'it', 'int8', 'int8', 'int8')


def test_a_float_file_called_int8_is_rejected():
  graph = tflite_graph.read_tflite(handmade.convolution('float32', 'float32'))
  checks.check_graph(graph, 'it', 'float32')
  with pytest.raises(
    tflite_graph.BadGraph,
    match=r"CONV_2D .*'map'.* is a float operator: 'image'",
  ):
    checks.check_graph(graph, 'it', 'int8')


@pytest.mark.parametrize(
  'name', ['CUSTOM:FlexErf', 'CUSTOM:MyOp', 'STABLEHLO_COMPOSITE']
)
@pytest.mark.parametrize('kind', ['float32', 'int8'])
def test_operators_that_are_not_builtin_are_rejected(name, kind):
  dtype = 'int8' if kind == 'int8' else 'float32'
  graph = tflite_graph.read_tflite(
    handmade.build(
      [
        handmade.tensor('x', dtype, (4,)),
        handmade.tensor('peaks', dtype, (4,)),
      ],
      [(name, (0,), (1,))],
      (0,),
      (1,),
    )
  )
  with pytest.raises(
    tflite_graph.BadGraph, match=f"{name} .*'peaks'.* is no builtin operator"
  ):
    checks.check_graph(graph, 'it', kind, dtype, dtype)


def io_casts(middle=()):
  """float in -> QUANTIZE -> DEQUANTIZE -> float out, or with more between."""
  return tflite_graph.read_tflite(
    handmade.build(
      [
        handmade.tensor('x', 'float32', (4,)),
        handmade.tensor('q', 'int8', (4,), scales=[1.0]),
        handmade.tensor('y', 'float32', (4,)),
        handmade.tensor('inner', 'float32', (4,)),
        handmade.tensor('q2', 'int8', (4,), scales=[1.0]),
      ],
      [('QUANTIZE', (0,), (1,)), *middle],
      (0,),
      (2,),
    )
  )


def test_float_io_is_allowed_where_requested():
  graph = io_casts([('DEQUANTIZE', (1,), (2,))])
  checks.check_graph(graph, 'it', 'int8', 'float32', 'float32')
  with pytest.raises(
    tflite_graph.BadGraph, match=r"QUANTIZE \(makes tensor 'q'\)"
  ):
    checks.check_graph(graph, 'it', 'int8', 'uint8', 'float32')
  with pytest.raises(
    tflite_graph.BadGraph, match=r"DEQUANTIZE \(makes tensor 'y'\)"
  ):
    checks.check_graph(graph, 'it', 'int8', 'float32', 'int8')


def test_float_operators_inside_an_int8_file_are_rejected():
  graph = io_casts(
    [
      ('DEQUANTIZE', (1,), (3,)),
      ('QUANTIZE', (3,), (4,)),
      ('DEQUANTIZE', (4,), (2,)),
    ]
  )
  with pytest.raises(
    tflite_graph.BadGraph, match=r"DEQUANTIZE .*'inner'.*QUANTIZE .*'q2'"
  ):
    checks.check_graph(graph, 'it', 'int8')


def test_io_types_must_match_the_request():
  with pytest.raises(
    tflite_graph.BadGraph, match="input tensor 'image' is int8, not uint8"
  ):
    checks.check_graph(
      tflite_graph.read_tflite(handmade.convolution()),
      'it',
      'int8',
      'uint8',
      'int8',
    )


def test_per_tensor_weights_are_rejected_where_per_channel_is_expected():
  graph = tflite_graph.read_tflite(handmade.convolution(weight_scales=1))
  with pytest.raises(
    tflite_graph.BadGraph, match='1 weight scales for 4 channels'
  ):
    checks.check_graph(graph, 'it', 'int8', 'int8', 'int8')


def test_float32_weights_in_a_float16_file_are_rejected():
  graph = tflite_graph.read_tflite(handmade.convolution('float32', 'float32'))
  with pytest.raises(
    tflite_graph.BadGraph, match="'kernel', which is stored as float32"
  ):
    checks.check_graph(graph, 'it', 'float16')


def test_further_violations_are_counted():
  graph = tflite_graph.read_tflite(
    handmade.build(
      [
        handmade.tensor('x', 'float32', (4,)),
        handmade.tensor('y', 'float32', (4,)),
      ],
      [('CUSTOM:A', (0,), (1,))] * 7,
      (0,),
      (1,),
    )
  )
  with pytest.raises(tflite_graph.BadGraph, match=r'and 4 more$'):
    checks.check_graph(graph, 'it', 'float32')
