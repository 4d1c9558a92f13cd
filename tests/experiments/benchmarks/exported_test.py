"""Published files beside ours: what is compared, on networks that are small."""

import pytest

from configs import shapes_mnv2
from deeplab.inference import interpreters
from experiments.benchmarks import exported
from export.graph import tflite_graph
from tests import shared


def test_an_export_of_the_untrained():
  content = exported.export_int8(
    shapes_mnv2.get_config('smoke'), (64, 64), output='argmax'
  )
  graph = tflite_graph.read_tflite(content)
  assert tflite_graph.count_operators(graph)['ARG_MAX'] == 1
  # No two biases are the same bytes, as if they were trained.
  read = {i for op in graph.operators for i in op.inputs}
  biases = [
    graph.tensors[i]
    for i in read
    if graph.is_constant(i) and graph.tensors[i].dtype == 'int32'
  ]
  assert len({tensor.buffer for tensor in biases}) == len(biases) > 10
  first, second = exported.measure_latencies((content, content), 3)
  assert 0 < first < 100 * second


@pytest.mark.full
@pytest.mark.parametrize(
  ('size', 'arena_kib'), [(256, 1104), (320, 1725), (416, 2915)]
)
def test_person_needs_no_more_than_published(size, arena_kib):
  """STMicroelectronics' rows: weights, and 15 % over the widest layer."""
  if not interpreters.has_tflm():
    pytest.skip('tflite-micro is not installed')
  row = exported.compare_person_network(size)
  constants, published, arena = (
    float(row[i].replace(',', '')) for i in (1, 2, 3)
  )
  print(row)
  assert constants <= published
  assert arena <= arena_kib


@pytest.mark.full
def test_public_networks_are_ours():
  """The same multiply-accumulates; constants differ by scales and shapes."""
  folder = shared.SHARED / 'models'
  if not folder.is_dir():
    pytest.skip('the public files are not here')
  for name, public in exported.PUBLIC_MODELS.items():
    path = folder / f'{name}.tflite'
    theirs = tflite_graph.read_tflite(path.read_bytes())
    ours = tflite_graph.read_tflite(public.export_ours(str(path)))
    assert tflite_graph.count_macs(ours) == pytest.approx(
      tflite_graph.count_macs(theirs), rel=2e-3
    )
    ratio = tflite_graph.weight_bytes(ours) / tflite_graph.weight_bytes(theirs)
    print(name, ratio)
    assert 0.97 < ratio <= 1.0
