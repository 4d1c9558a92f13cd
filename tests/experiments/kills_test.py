"""The campaign of kills: what it draws, sees and counts."""

import random
import subprocess
import sys

import pytest

from experiments.benchmarks import kills

# A child reports its begin and two phases and then waits; another one reports
# its end, too.
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
  [('60', 'True -9 3 said'), ('0', 'False 0 4 said')],
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
  # Each lies between the begin of its phase and that of the next one.
  longest = {
    (phase, count): max(
      k.delay for k in inside if (k.phase, k.count) == (phase, count)
    )
    for phase in (b'v', b'e')
    for count in (0, 1)
  }
  assert {k: round(v, 1) for k, v in longest.items()} == {
    (b'v', 0): 1.0,
    (b'e', 0): 3.0,
    (b'v', 1): 0.5,
    (b'e', 1): 3.5,
  }
  assert max(k.delay for k in drawn if k.phase == b's') > 9.9
  assert 1400 < sum(k.group for k in drawn) < 1600
  assert kills.draw_kill(rng, expected, ()).phase == b's'


def test_moments_in_the_first_part_of_a_process():
  phases = ((b's', 0.0), *((b'v', float(i)) for i in range(1, 11)))
  expected = kills.Ending(False, 0, phases, 11.0)
  rng = random.Random(0)
  drawn = [kills.draw_kill(rng, expected, (b'v',), 0.3) for _ in range(300)]
  assert {k.count for k in drawn if k.phase == b'v'} == {0, 1, 2}
  assert 3.2 < max(k.delay for k in drawn if k.phase == b's') < 3.3


def test_half_written_files_are_seen(tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'run.json').write_text('{"a": ')
  (tmp_path / 'run' / '.partial-1-0-b.json').write_text('{')
  (tmp_path / 'c.json').write_text('{}')
  (tmp_path / 'd.png').write_bytes(b'\x89PNG')
  wrong = kills.find_half_written(tmp_path)
  assert [line.partition(':')[0] for line in wrong] == ['d.png', 'run/run.json']


def test_other_content_is_seen(tmp_path):
  for name in ('a', 'b', '.deeplab.jsonl'):
    (tmp_path / name).write_text(name)
  wanted = kills.hash_folder(tmp_path)
  assert sorted(wanted) == ['a', 'b']
  (tmp_path / 'c').write_text('may be written later')
  assert kills.find_other_content(tmp_path, wanted) == []
  (tmp_path / 'b').write_text('half')
  assert kills.find_other_content(tmp_path, wanted) == ['b: other content']


def test_leftovers_are_seen(tmp_path):
  for name in ('.config', '.partial-1-0-a', 'incomplete.X', 'a.png', '6'):
    (tmp_path / name).mkdir()
  assert kills.find_leftovers(tmp_path) == ['.partial-1-0-a', 'incomplete.X']


def test_a_campaign_is_clean_if_nothing_was_lost_or_left():
  whole = kills.Counts(killed=9, ended=1, completed=4, same=4)
  assert whole.is_clean()
  assert whole + kills.Counts(killed=1, seconds=2.5) == kills.Counts(
    killed=10, ended=1, completed=4, same=4, seconds=2.5
  )
  for change in ('half_written', 'failed', 'leftovers', 'completed'):
    counts = kills.Counts(killed=9, completed=4, same=4)
    setattr(counts, change, getattr(counts, change) + 1)
    assert not counts.is_clean(), change
  assert kills.render_table({'train': whole}).splitlines()[2].split() == [
    *('|', 'train', '|', '9', '|', '1', '|', '4', '|', '4', '|'),
    *('0', '|', '0', '|', '0', '|', '0', '|', '0', '|', '0', '|'),
  ]


@pytest.mark.parametrize('action', ['flip', 'remove', 'cut'])
def test_damage(tmp_path, action):
  done = set()
  for seed in range(12):
    (tmp_path / 'a').write_bytes(b'genuine')
    said = kills.damage_file(random.Random(seed), tmp_path)
    done.add(said)
    if said == f'{action} a':
      path = tmp_path / 'a'
      content = path.read_bytes() if path.exists() else None
      assert content != b'genuine'
      assert (content is None) == (action == 'remove')
      assert (content is not None and len(content) == 7) == (action == 'flip')
  assert done == {'flip a', 'remove a', 'cut a'}


def test_refusals_are_one_sentence(tmp_path):
  log = tmp_path / 'log.txt'
  for content, is_sentence in (
    ('I a\nError: W is in use: process 7\n', True),
    ('Error: W is in use: process 7', True),
    ('Error: other', False),
    ('W is in use: process 7', False),
    ('Traceback\nError: W is in use: process 7', False),
  ):
    log.write_text(content)
    assert kills._is_sentence(log, 'is in use: process') == is_sentence, content


def test_numbers_of_trials():
  assert kills.parse_trials(['train:3', 'damage:0']) == {
    'train': 3,
    'damage': 0,
  }
  for word in ('train', 'train:x', 'evaluate:3'):
    with pytest.raises(ValueError, match=f'--trials={word} is not KIND:NUMBER'):
      kills.parse_trials([word])


def test_earlier_trials_are_kept(tmp_path):
  assert kills.read_trials(tmp_path / 'trials.jsonl') == []
  (tmp_path / 'trials.jsonl').write_text('{"killed": 2}\n{"same": 1}\n')
  assert kills.read_trials(tmp_path / 'trials.jsonl') == [
    kills.Counts(killed=2),
    kills.Counts(same=1),
  ]


@pytest.mark.full
def test_a_few_kills_lose_nothing(tmp_path):
  command = [
    *(sys.executable, '-m', 'experiments.benchmarks.kills', '--seed=2'),
    f'--workdir={tmp_path}',
    '--trials=train:3,prepare:2,sweep:2,export:1,predict:2,twice:1,damage:2',
  ]
  for _ in range(2):  # the second time everything is there
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'holds what differs' not in done.stdout
    assert len(done.stdout.splitlines()) == 10
