"""Targets, and the errors of files that describe them badly."""

import json

import pytest

from export.devices import targets


def test_all_files_are_read():
  names = set(targets.TARGETS)
  assert {'stm32n6', 'stm32mp2', 'cortex-m7', 'tda4vm', 'litert-cpu'} <= names
  assert len([n for n in names if n.startswith('ethos-')]) == 4 + 2 + 5
  u55 = targets.get_target('ethos-u55-64')
  assert (u55.macs_per_cycle, u55.clock_hz) == (64, 500e6)
  assert (u55.compiler, u55.half_pixel) == ('vela', (2,))
  n6 = targets.get_target('stm32n6')
  assert n6.ram_bytes == 2816 * 1024
  assert n6.memory_bytes == 2816 * 1024 + 32 * 1024**2


def test_every_number_has_a_source():
  for target in targets.TARGETS.values():
    assert all(len(source) > 5 for source in target.sources.values())
    assert target.title


def test_estimated_latency():
  """1e9 MACs, 300 per cycle, at 1 GHz."""
  n6 = targets.get_target('stm32n6')
  assert n6.estimate_ms(10**9) == pytest.approx(1000 / 300)
  assert targets.get_target('litert-cpu').estimate_ms(10**9) is None


def test_unknown_target():
  message = r'--target=npu is not one of (\S+, )*cortex-m7, '
  with pytest.raises(ValueError, match=message):
    targets.get_target('npu')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x: x.pop('weights'), "lacks the field 'weights'"),
    (lambda x: x['clock_hz'].update(source=''), 'names no source of clock_hz'),
    (lambda x: x['weights'].update(value='none'), "weights='none' is not"),
    (lambda x: x['clock_hz'].update(value='1'), "clock_hz='1' is not a pos"),
    (lambda x: x['ram_bytes'].update(value=-1), 'ram_bytes=-1 is not a pos'),
    (lambda x: x.update(operators=0.5), r'x\.json: damaged, or not a device'),
    (lambda x: x.update(sizes=[]), r'x\.json: damaged, or not a device'),
    (lambda x: x.update(sizes={'x': 7}), r'x\.json: damaged, or not a device'),
    (lambda x: x.update(resize=[]), r'x\.json: damaged, or not a device'),
  ],
)
def test_incomplete_files(tmp_path, change, message):
  fields = json.loads((targets.TARGETS_FOLDER / 'stm32n6.json').read_text())
  change(fields)
  path = tmp_path / 'x.json'
  path.write_text(json.dumps(fields))
  with pytest.raises(ValueError, match=message):
    targets.read_targets(path)


@pytest.mark.parametrize('content', [b'7', b'[]', b'{', b'\xff', b'[' * 10**5])
def test_damaged_files(tmp_path, content):
  path = tmp_path / 'x.json'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r'x\.json(:| is) damaged'):
    targets.read_targets(path)
