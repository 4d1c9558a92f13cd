"""TFLM compared with LiteRT's reference kernels."""

import numpy as np
import pytest

from deeplab.inference import interpreters
from export.devices import tflm
from export.graph import memory
from export.graph import tflite_graph
from tests.export import small

pytestmark = pytest.mark.skipif(
  not interpreters.has_tflm(), reason='tflite-micro is not installed'
)


def image(seed=0):
  return (small.image(seed)[None].astype(np.int16) - 128).astype(np.int8)


def test_measured_arena():
  content = small.int8()
  found = tflm.measure_arena(content)
  planned = memory.plan_arena(
    memory.activation_lifetimes(tflite_graph.read_tflite(content))
  )
  assert found.total >= found.head + found.tail
  assert found.head == planned == 768 + 768 + 1536  # the concatenation
  assert found.tail > 0


def test_files_of_single_operators():
  content = small.int8()
  graph = tflite_graph.read_tflite(content)
  for step, op in enumerate(graph.operators):
    (own,) = tflite_graph.read_tflite(
      tflm.extract_operator(content, step)
    ).operators
    assert own.name == op.name
    assert len(own.inputs) == len(op.inputs)


def test_every_operator_is_bit_exact():
  content = small.int8()
  found = tflm.compare_operators(content, image())
  names = [op.name for op in tflite_graph.read_tflite(content).operators]
  assert [x.operator for x in found] == names
  assert [x for x in found if x.largest] == []


def test_a_difference_is_found(monkeypatch):
  """The reference has a flipped bit from the first convolution on."""
  content = small.int8()
  other = tflm._reference_interpreter

  def biased(data):
    runner = other(data)
    get = runner.get_tensor
    runner.get_tensor = lambda index: get(index) ^ 1
    return runner

  monkeypatch.setattr(tflm, '_reference_interpreter', biased)
  found = tflm.compare_network(content, [image()])
  assert found.first.step == 0
  assert (found.first.largest, found.first.share) == (1.0, 1.0)
  assert found.histogram == {1: small.SIZE[0] * small.SIZE[1] * small.CLASSES}


def test_networks_are_bit_exact():
  found = tflm.compare_network(small.int8(), [image(), image(1)])
  count = 2 * small.SIZE[0] * small.SIZE[1] * small.CLASSES
  assert found == tflm.NetworkDifference({0: count}, None)
  # The final DEQUANTIZE is float; its differences are counted in LSB, too.
  assert tflm.compare_network(small.int8('float32'), [image()]).histogram == {
    0: count // 2
  }
