import pytest

from experiments import zoo_rows
from experiments.benchmarks import inference


def test_cheapest_row():
  (row,) = zoo_rows.read_rows('st_person_mnv2_aspp_v2_256')
  result = inference.measure_speed(row, 'float32', runs=2, warm_up=1)
  seconds = result.pop('seconds')
  assert len(seconds) == 2
  assert result.pop('images_per_second') == pytest.approx(2 / sum(seconds))
  # Parameters and running statistics, 4 bytes each, the image and its logits.
  least = 4 * (877_602 + 3 * 256**2 + 2 * 256**2)
  assert least < result.pop('memory') < 20 * least
  assert result == {
    'id': 'st_person_mnv2_aspp_v2_256',
    'height': 256,
    'width': 256,
    'dtype': 'float32',
    'device': 'cpu',
    'memory_kind': 'compiled',
  }


def test_table():
  result = {
    'id': 'a',
    'height': 256,
    'width': 512,
    'dtype': 'bfloat16',
    'device': 'some GPU',
    'images_per_second': 12.345,
    'memory': 3 * 2**20,
    'memory_kind': 'peak',
  }
  assert inference.format_table([result]).splitlines()[-1] == (
    '| a  | 256x512 | bfloat16 | some GPU | 12.35    | 3 peak       |'
  )
