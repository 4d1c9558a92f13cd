import pathlib
import re
import subprocess
import sys

import pytest

from configs import person_mnv2
from experiments import device_search
from export.devices import fit
from export.devices import targets
from export.graph import trace

N6 = targets.get_target('stm32n6')


def choice(alpha=0.5, size=256, channels=256, stride=16):
  return device_search.Candidate(alpha, (size, size), channels, stride)


def cost(macs=10, refused=()):
  return device_search.DeviceCost(macs, 1024, 2048, 3e6, 1.0, tuple(refused))


def test_what_the_config_has():
  (only,) = device_search.iterate_candidates(person_mnv2.get_config())
  assert only == choice()


def test_every_combination():
  found = list(
    device_search.iterate_candidates(
      person_mnv2.get_config(), [0.35, 1.0], [(256, 256), (320, 320)], [64], [8]
    )
  )
  assert len(found) == 4
  assert found[-1] == choice(1.0, 320, 64, 8)


def test_a_field_that_is_not_there():
  config = person_mnv2.get_config().unlock()
  del config.model.encoder.alpha
  with pytest.raises(ValueError, match='alphas: the encoder mobilenet_v2'):
    list(device_search.iterate_candidates(config, [0.5]))


def test_published_costs():
  """ST's person row: 868.4 KiB of constants, 1,024 KiB of activations."""
  found = device_search.estimate_cost(
    person_mnv2.get_config(), choice(), N6, fit.memory_limits(N6, None, None)
  )
  assert found.ram_bytes == 1024 * 1024
  # A file has the sizes of resizes and the mean besides.
  assert found.flash_bytes / 1024 == pytest.approx(868.4, abs=0.5)
  assert found.cycles == pytest.approx(found.macs / 300)
  assert found.ms == pytest.approx(1e3 * found.macs / 300e9)
  assert found.refusals == ()


def test_limits():
  config, limits = person_mnv2.get_config(), fit.memory_limits(N6, 512, None)
  memory, time = device_search.estimate_cost(
    config, choice(), N6, limits, max_ms=0.1
  ).refusals
  assert memory.startswith('activations need 1,024.0 KiB of RAM, it has 512.0')
  assert time == '0.8 ms at least, of 0.1'
  roomy = fit.memory_limits(N6, None, None)
  (cycles,) = device_search.estimate_cost(
    config, choice(), N6, roomy, max_cycles=5e5
  ).refusals
  assert re.fullmatch(r'8\d\d,\d{3} cycles at least, of 500,000', cycles)
  # Without the last resize the widest layer is what counts.
  host = device_search.estimate_cost(
    config, choice(size=320), N6, limits, host=True
  )
  whole = device_search.estimate_cost(config, choice(size=320), N6, limits)
  assert host.ram_bytes <= whole.ram_bytes


def test_resizes_take_the_targets_steps(monkeypatch):
  """An Ethos-U55 doubles: 16 to 256 is four steps, and 7 to 100 is none."""
  config, target = person_mnv2.get_config(), targets.get_target('ethos-u55-128')
  limits = fit.memory_limits(target, None, None)
  ratios = []
  plan = trace.trace_network

  def record(network, *args):
    ratios.append(network.head.options.resize_ratio)
    return plan(network, *args)

  monkeypatch.setattr(trace, 'trace_network', record)
  assert (
    device_search.estimate_cost(config, choice(), target, limits).refusals == ()
  )
  device_search.estimate_cost(
    config, choice(), N6, fit.memory_limits(N6, None, None)
  )
  assert ratios == [2, 0]
  (refusal,) = device_search.estimate_cost(
    config, choice(size=100), target, limits
  ).refusals
  assert 'ethos-u55-128 cannot resize a map from 7x7 to 100x100' in refusal


def test_front():
  """Larger in one thing and smaller in another: both stay."""
  small, wide, large = choice(0.35), choice(1.0, 192), choice(0.5, 320)
  too_large = choice(1.0, 320)
  found = [
    (small, cost(1)),
    (large, cost(30)),
    (wide, cost(20)),
    (too_large, cost(40, ['no room'])),
  ]
  assert [x for x, _ in device_search.pareto_front(found)] == [wide, large]
  text = device_search.format_table(found)
  assert '| no room |' in text
  assert '192x192' in text


def test_plot():
  found = [(choice(), cost()), (choice(1.0), cost(40, ['no room']))]
  picture = device_search.plot_candidates(
    found, fit.MemoryLimits(2048, None), 'x'
  )
  assert picture.shape == (500, 800, 3)
  assert picture.std() > 5


def test_command(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'experiments.device_search', '--target=stm32n6'),
      *('--config=configs/shapes_mnv2.py:smoke', '--sizes=64,96'),
      f'--output={tmp_path}',
    ],
    cwd=pathlib.Path(__file__).resolve().parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert '96x96' in done.stdout
  assert '64x64' not in done.stdout  # covered
  names = sorted(x.name for x in tmp_path.iterdir())
  assert names == [
    *('.deeplab.jsonl', 'budget.json', 'budget.md', 'budget.png'),
  ]
