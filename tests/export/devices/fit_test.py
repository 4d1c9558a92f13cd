"""Checks of a two-operator graph, small enough to count by hand."""

import dataclasses

import numpy as np
import pytest

from export.devices import fit
from export.devices import targets
from export.devices import vela
from export.graph import tflite_graph
from tests.export import handmade

ROOMY = fit.MemoryLimits(None, None)


def graph(resized=64, dtype='int8'):
  """8x8x4 -> convolution -> 8x8x8 -> resize -> `resized`^2 x 8."""
  tensors = [
    handmade.tensor('in', dtype, (1, 8, 8, 4), scales=(1.0,)),
    handmade.tensor(
      'w',
      'int8',
      (8, 3, 3, 4),
      data=np.zeros((8, 3, 3, 4), np.int8),
      scales=(0.1,) * 8,
    ),
    handmade.tensor('b', 'int32', (8,), data=np.zeros(8, np.int32)),
    handmade.tensor('conv', dtype, (1, 8, 8, 8), scales=(1.0,)),
    handmade.tensor('size', 'int32', (2,), data=np.int32([resized, resized])),
    handmade.tensor('out', dtype, (1, resized, resized, 8), scales=(1.0,)),
  ]
  operators = [
    ('CONV_2D', (0, 1, 2), (3,)),
    ('RESIZE_BILINEAR', (3, 4), (5,)),
  ]
  return tflite_graph.read_tflite(
    handmade.build(tensors, operators, (0,), (5,))
  )


def test_a_graph_that_fits():
  target = targets.get_target('cortex-m7')
  available = fit.memory_limits(target, None, None)
  assert available == fit.MemoryLimits(512 * 1024, 2 * 1024**2)
  assert fit.find_violations(graph(), target, available) == []


def test_memory_violations_name_layer_and_number():
  target = targets.get_target('cortex-m7')
  ram, flash = fit.find_violations(
    graph(), target, fit.MemoryLimits(32 * 1024, 100)
  )
  # 8 * 8 * 8 and 64 * 64 * 8 bytes are alive at the resize.
  assert 'need 32.5 KiB of RAM, it has 32.0 KiB' in ram
  assert "RESIZE_BILINEAR (makes tensor 'out', 1x64x64x8 int8): 32.5 KiB" in ram
  # 288 weights, 8 biases of 4 bytes, and the size of the resize.
  assert 'need 0.3 KiB of flash, it has 0.1 KiB' in flash
  assert "CONV_2D (makes tensor 'conv'" in flash


def test_memory_limits_of_the_users_system():
  target = targets.get_target('stm32n6')
  assert fit.memory_limits(target, 1, 2) == fit.MemoryLimits(1024, 2048)


def test_an_operator_that_the_target_lacks():
  (text,) = fit.find_violations(graph(), _only('CONV_2D'), ROOMY)
  assert text.startswith("RESIZE_BILINEAR (makes tensor 'out'")
  assert text.endswith('is not supported')


def test_int16_operators():
  int16 = graph(dtype='int16')
  (refusal,) = fit.find_violations(
    int16, targets.get_target('cortex-m7'), ROOMY
  )
  assert (
    'RESIZE_BILINEAR' in refusal
    and 'such layers out of --wide_layers' in refusal
  )
  (refusal, *_) = fit.find_violations(
    int16, targets.get_target('stm32n6'), ROOMY
  )
  assert 'CONV_2D' in refusal and '(and 1 more) has 16-bit' in refusal
  assert (
    fit.find_violations(int16, targets.get_target('litert-cpu'), ROOMY) == []
  )


def _only(*names):
  return dataclasses.replace(
    targets.get_target('cortex-m7'), operators=frozenset(names)
  )


def test_a_resize_ratio_has_a_remedy():
  (ratio,) = fit.find_violations(graph(24), targets.get_target('tda4vm'), ROOMY)
  assert 'resizes by 3 (config.model.head.align_corners=False' in ratio
  both = dataclasses.replace(targets.get_target('tda4vm'), align_corners=(2,))
  (ratio,) = fit.find_violations(graph(24), both, ROOMY)
  assert 'resizes by 3 (config.model.head.align_corners=True' in ratio


def test_subtraction_of_the_mean_has_a_remedy():
  """Input normalization is the only SUB of most networks."""
  tensors = [
    handmade.tensor('in', 'int8', (1, 8, 8, 3), scales=(1.0,)),
    handmade.tensor(
      'mean', 'int8', (3,), data=np.zeros(3, np.int8), scales=(1.0,)
    ),
    handmade.tensor('out', 'int8', (1, 8, 8, 3), scales=(1.0,)),
  ]
  content = handmade.build(tensors, [('SUB', (0, 1), (2,))], (0,), (2,))
  (text,) = fit.find_violations(
    tflite_graph.read_tflite(content), targets.get_target('tda4vm'), ROOMY
  )
  assert 'is not supported (pass --normalization=caller' in text


def test_per_channel_scales_are_advice():
  (advice,) = fit.check_fit(graph(), '', targets.get_target('tda4vm'), ROOMY)[
    'advice'
  ]
  assert "CONV_2D (makes tensor 'conv', 1x8x8x8 int8) has 8 weight" in advice
  assert (
    list(fit.find_performance_issues(graph(), targets.get_target('stm32n6')))
    == []
  )


def test_violations_are_one_error():
  with pytest.raises(
    fit.DoesNotFit, match=r'^small.tflite does not fit tda4vm: .*resizes by 3'
  ):
    fit.check_fit(
      graph(24), 'x/small.tflite', targets.get_target('tda4vm'), ROOMY
    )


def test_the_compilers_memory_plan_is_checked(monkeypatch):
  compiled = vela.VelaSummary((), 33 * 1024, 2048, 1, 1, 0, 0.1, 'x')
  monkeypatch.setattr(vela, 'compile_file', lambda *_: compiled)
  target = targets.get_target('ethos-u55-128')
  with pytest.raises(
    fit.DoesNotFit,
    match=r'Vela plans 33.0 KiB of SRAM, it has 32.8 KiB; Vela plans 2.0 KiB',
  ):
    fit.check_fit(graph(), '', target, fit.MemoryLimits(33600, 1024))
  result = fit.check_fit(graph(), '', target, fit.MemoryLimits(34 * 1024, 4096))
  assert result['compiled']['sram_bytes'] == 33 * 1024


def test_result_without_a_compiler():
  result = fit.check_fit(graph(), '', targets.get_target('stm32n6'), ROOMY)
  assert result['compiled'] is None
  assert result['estimate_ms'] == 1e3 * (64 * 8 * 36) / (1e9 * 300)
