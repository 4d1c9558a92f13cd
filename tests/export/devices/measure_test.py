"""Device checks, and the sections of the report that show them."""

import numpy as np
import pytest

from deeplab.inference import interpreters
from export.convert import io_types
from export.devices import measure
from export.devices import vela
from export.graph import tflite_graph
from export.report import device_sections
from tests.export import small


def test_latency():
  assert 0 < measure.measure_latency_ms(small.int8(), runs=3) < 1000


def test_quantized_inputs():
  graph = tflite_graph.read_tflite(small.int8())
  found = measure.quantize_input(graph, small.image())
  assert found.dtype == np.int8
  wanted = small.image()[None].astype(int) - 128
  np.testing.assert_array_equal(found, wanted)


def test_all_checks_of_a_file(tmp_path, monkeypatch):
  monkeypatch.setattr(measure, 'ACCELERATORS', ('ethos-u55-128',))
  path = small.write(tmp_path, small.int8())
  found = measure.run_device_checks(path, [small.image()])
  # An Ethos-U55 resizes by 2 with half-pixel centers, as the file does.
  npu = found['npu']['ethos-u55-128']
  assert npu['refused'] == []
  assert npu['seconds'] > 0
  assert npu['planned_bytes'] is None
  assert max(found['memory']['bytes']) == 3072
  if interpreters.has_tflm():
    assert found['micro']['first'] is None
    assert found['micro']['operators']['CONV_2D'] == {
      'count': 2,
      'equal': 2,
      'largest': 0.0,
    }


def test_vela_plans_the_target_with_its_own_memory(tmp_path, monkeypatch):
  calls = []

  def compile_file(path, accelerator, sram_bytes):
    calls.append((accelerator, sram_bytes))
    return vela.VelaSummary((), 1024, 0, 1, 1, 0, 1e-3, 'a system')

  monkeypatch.setattr(vela, 'compile_file', compile_file)
  npu = measure.check_vela('x.tflite', 'ethos-u65-256', 4096)
  measure.check_vela('x.tflite', 'ethos-u55-32', 2048)
  measure.check_vela('x.tflite', 'stm32n6', 2048)
  listed = [(name, None) for name in measure.ACCELERATORS]
  assert calls == [
    *(listed[0], ('ethos-u65-256', 4096), listed[2]),
    *(*listed, ('ethos-u55-32', 2048)),
    *listed,
  ]
  facts = {'memory': {'operators': ['ADD']}, 'npu': npu}
  rows = [
    x
    for x in device_sections.render_npu_section('int8', facts)
    if 'a system' in x
  ]
  planned = ['planned with 4.0 KiB of SRAM' in x for x in rows]
  assert planned == [False, True, False]


def test_a_missing_package_is_reported(tmp_path, monkeypatch):
  monkeypatch.setattr(interpreters, 'has_tflm', lambda: False)
  found = measure.check_tflm(small.int8(), [])
  assert found == {'absent': 'the package tflite-micro is not installed'}
  entry = {
    'weight_bytes': 1024,
    'file_bytes': 2048,
    'activation_lower_bound_bytes': 3072,
    'peak_activation_bytes': 4096,
  }
  lines = device_sections._memory_section('int8', entry, {'micro': found})
  assert 'TFLite Micro: the package tflite-micro is not installed.' in lines
  assert any('| TFLite Micro, arena |' in x for x in lines)


@pytest.mark.skipif(not interpreters.has_tflm(), reason='no tflite-micro')
def test_an_operator_that_tflm_lacks_is_reported():
  """TFLM loads a file of uint8 class ids but has no CAST to uint8."""
  content = io_types.append_argmax(small.int8('float32'), 'uint8')
  found = measure.check_tflm(content, [small.image()[None].view(np.int8)])
  assert set(found) == {'arena', 'absent'}
  assert found['absent'].startswith('the file loads and does not run: ')
  assert 'UINT8' in found['absent'] and 'CAST' in found['absent']
  assert found['arena']['total'] > 3072


def test_the_first_difference_is_reported():
  micro = {
    'operators': {'MEAN': {'count': 2, 'equal': 1, 'largest': 1.0}},
    'images': 1,
    'histogram': {'0': 90, '1': 10},
    'first': {
      'step': 3,
      'operator': 'MEAN',
      'tensor': 'pool',
      'largest': 1.0,
      'share': 0.5,
    },
  }
  text = '\n'.join(device_sections._tflm_section('int8', {'micro': micro}))
  assert '0: 90 (90.000 %), 1: 10 (10.000 %)' in text
  assert 'the first that differs is operator 3, MEAN `pool` (by 1' in text
