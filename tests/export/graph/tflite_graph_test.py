"""Reading and summarizing .tflite files made by hand."""

import numpy as np
import pytest

from export.graph import tflite_graph
from tests.export import handmade


def test_summary_of_a_convolution():
  graph = tflite_graph.read_tflite(handmade.convolution())
  assert tflite_graph.count_operators(graph) == {'CONV_2D': 1}
  assert tflite_graph.count_operator_dtypes(graph) == {'CONV_2D': {'int8': 1}}
  assert tflite_graph.weight_bytes(graph) == 4 * 3 * 3 * 3 + 4 * 4
  assert tflite_graph.count_macs(graph) == 4 * 4 * 4 * 3 * 3 * 3
  assert graph.tensors[0].nbytes == 192
  assert tflite_graph.tensor_qparams(graph.tensors[3]) == {
    'scale': 0.5,
    'zero_point': 0,
  }
  assert tflite_graph.tensor_qparams(graph.tensors[1]) is None


def test_macs_by_operator():
  graph = tflite_graph.read_tflite(
    handmade.build(
      [
        handmade.tensor('x', 'float32', (1, 5, 7, 6)),
        handmade.tensor('k', 'float32', (1, 3, 3, 6), data=np.zeros(54, 'f')),
        handmade.tensor('y', 'float32', (1, 5, 7, 6)),
        handmade.tensor('w', 'float32', (10, 210), data=np.zeros(2100, 'f')),
        handmade.tensor('z', 'float32', (1, 10)),
      ],
      [
        ('DEPTHWISE_CONV_2D', (0, 1), (2,)),
        ('RESHAPE', (2,), (2,)),
        ('FULLY_CONNECTED', (2, 3), (4,)),
      ],
      (0,),
      (4,),
    )
  )
  assert tflite_graph.count_macs(graph) == 5 * 7 * 6 * 9 + 10 * 210


def test_shared_constants_count_once():
  data = handmade.build(
    [
      handmade.tensor('x', 'float32', (4,)),
      handmade.tensor('w', 'float32', (4,), data=np.ones(4, 'f')),
      handmade.tensor('y', 'float32', (4,)),
      handmade.tensor('z', 'float32', (4,)),
      handmade.tensor('unread', 'float32', (4,), data=np.ones(4, 'f')),
    ],
    [('ADD', (0, 1), (2,)), ('MUL', (2, 1), (3,))],
    (0,),
    (3,),
  )
  assert tflite_graph.weight_bytes(tflite_graph.read_tflite(data)) == 16


def test_another_file_format_is_an_error():
  with pytest.raises(ValueError, match=r'not a \.tflite file'):
    tflite_graph.read_tflite(b'PK\x03\x04 something else')
