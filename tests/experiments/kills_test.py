"""The campaign of kills: what it draws, sees and counts."""

import random
import subprocess
import sys

import pytest

from experiments.benchmarks import kills

# A child reports two phases and then waits; another one ends.
RUN = """
import pathlib, sys, time
from experiments.benchmarks import kills
log = pathlib.Path(sys.argv[1], 'log.txt')

def work():
  print('said', flush=True)
  for phase in (kills._SAVE, kills._SAVE):
    kills._report(phase)
  time.sleep(float(sys.argv[2]))

kill = kills.Kill(kills._SAVE, 1, 0.05)
ending = kills.run_and_kill(work, log, kill)
print(ending.killed, ending.status, len(ending.phases), log.read_text())
print(kills.ask(lambda: {'a': [1]}, log))
"""


@pytest.mark.full
@pytest.mark.parametrize(
  ('seconds', 'said'),
  [('60', 'True -9 3 said'), ('0', 'False 0 3 said')],
)
def test_a_process_is_killed_in_its_phase(seconds, said, tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', RUN, str(tmp_path), seconds],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split('\n')[::2] == [said, "{'a': [1]}"]


def test_two_thirds_of_the_moments_are_inside():
  phases = ((b's', 0.0), (b'v', 2.0), (b'e', 3.0), (b'v', 6.0), (b'e', 6.5))
  expected = kills.Ending(False, 0, phases, 10.0)
  rng = random.Random(0)
  drawn = [kills.draw_kill(rng, expected, (b'v', b'e')) for _ in range(3000)]
  inside = [kill for kill in drawn if kill.phase != b's']
  assert 1900 < len(inside) < 2100
  assert {kill.count for kill in inside} == {0, 1}
  # The shortest time from one save to the next, and one evaluation to the next.
  assert max(k.delay for k in inside if k.phase == b'v') < 4.0
  assert max(k.delay for k in inside if k.phase == b'e') < 3.5
  assert max(k.delay for k in drawn if k.phase == b's') > 9.9
  assert kills.draw_kill(rng, expected, ()).phase == b's'


def test_half_written_files_are_seen(tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'run.json').write_text('{"a": ')
  (tmp_path / 'run' / '.partial-1-0-b.json').write_text('{')
  (tmp_path / 'c.json').write_text('{}')
  (tmp_path / 'd.png').write_bytes(b'\x89PNG')
  wrong = kills.find_half_written(tmp_path)
  assert [line.partition(':')[0] for line in wrong] == ['d.png', 'run/run.json']


def test_leftovers_are_seen(tmp_path):
  for name in ('.config', '.partial-1-0-a', 'incomplete.X', 'a.png', '6'):
    (tmp_path / name).mkdir()
  assert kills.find_leftovers(tmp_path) == ['.partial-1-0-a', 'incomplete.X']


def test_a_campaign_is_clean_if_nothing_was_lost_or_left():
  whole = kills.Counts(killed=9, ended=1, completed=4, same=4)
  assert whole.is_clean()
  for change in ('half_written', 'failed', 'leftovers', 'completed'):
    counts = kills.Counts(killed=9, completed=4, same=4)
    setattr(counts, change, getattr(counts, change) + 1)
    assert not counts.is_clean(), change
  assert kills.render_table({'train': whole}).splitlines()[2].split() == [
    *('|', 'train', '|', '9', '|', '1', '|', '4', '|', '4', '|'),
    *('0', '|', '0', '|', '0', '|', '0', '|'),
  ]


@pytest.mark.full
def test_a_few_kills_lose_nothing(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'experiments.benchmarks.kills'),
      *('--trials=3', '--seed=2', '--commands=train,prepare,predict'),
    ],
    capture_output=True,
    text=True,
    check=False,
    env=kills.os.environ | {'TMPDIR': str(tmp_path)},
  )
  assert done.returncode == 0, done.stderr
  assert 'holds what differs' not in done.stdout
  assert len(done.stdout.splitlines()) == 5
