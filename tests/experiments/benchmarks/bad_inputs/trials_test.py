"""The harness itself: readers that misbehave are counted as such."""

import numpy as np
import pytest

from experiments.benchmarks.bad_inputs import __main__ as command
from experiments.benchmarks.bad_inputs import input_kinds
from experiments.benchmarks.bad_inputs import trials
from tests.experiments.benchmarks.bad_inputs import planted

LIMITS = trials.Limits(seconds=4.0, memory_bytes=32 * 2**20)


@pytest.fixture(scope='module')
def ends(tmp_path_factory):
  """Returns the results by kind, and the folder of failures."""
  folder = tmp_path_factory.mktemp('failures')
  planned = [trials.Trial(name, 1) for name in planted.KINDS]
  found = list(command.run_trials(planned, planted.KINDS, LIMITS, 2, folder))
  assert [trial for trial, _ in found] == planned
  return {trial.kind: result for trial, result in found}, folder


@pytest.mark.parametrize('outcome', planted.MISBEHAVIORS)
def test_misbehavior_is_counted(ends, outcome):
  for function in planted.MISBEHAVIORS[outcome]:
    assert ends[0][function.__name__].outcome == outcome, function


def test_results_say_what_happened(ends):
  results, folder = ends
  assert results['_type_error'].line == 'TypeError: a.txt'
  assert results['_hang'].seconds == 4.0
  assert results['_eat'].memory_bytes == pytest.approx(40 * 2**20, rel=0.1)
  assert results['_crash'].line.startswith('exit code -11')
  assert results['_sentence'].memory_bytes < 20 * 2**20
  kept = sorted(path.name for path in folder.iterdir())
  accepted = {'_sentence', '_write_output'}
  assert kept == sorted(planted.KINDS.keys() - accepted)
  text = (folder / '_type_error' / '1' / 'failure.txt').read_text()
  assert text.startswith('traceback\nTypeError: a.txt\n\nTraceback (most')
  damaged = (folder / '_type_error' / '1' / 'input' / 'a.txt').read_bytes()
  assert damaged != b'genuine\n'


def test_inputs_are_a_function_of_seed_kind_and_number(tmp_path):
  kind = input_kinds.KINDS['coco']
  samples = trials.make_samples(kind, tmp_path)
  make = lambda trial: trials.make_input(trial, kind, *samples)['train.json']
  inputs = [make(trials.Trial('coco', i)) for i in range(20)]
  assert inputs == [make(trials.Trial('coco', i)) for i in range(20)]
  assert len(set(inputs)) > 15
  assert make(trials.Trial('coco', 3, seed=1)) != inputs[3]
  assert make(trials.Trial('cvat', 3)) != inputs[3]


def test_hostile_samples_come_first(tmp_path):
  kind = input_kinds.KINDS['pth']
  genuine, hostile = trials.make_samples(kind, tmp_path)
  made = [
    trials.make_input(trials.Trial('pth', i), kind, genuine, hostile)
    for i in range(2)
  ]
  assert made == hostile
  assert b'system' in hostile[1]['model.pth']


def test_digests_of_nested_values():
  values = [
    *(None, 0, 'a', b'a', [], [[]], {'a': 1}, {'a': 2}, [1, 2], [[1], 2]),
    *(np.zeros(2), np.zeros(2, np.float32), np.zeros((2, 1))),
  ]
  assert len({trials.digest(value) for value in values}) == len(values)
  assert trials.digest({'a': 1, 'b': 2}) == trials.digest({'b': 2, 'a': 1})
  with pytest.raises(AssertionError, match='gave away'):
    trials.digest([{'x': np.frombuffer(b'..' + trials.SECRET, np.uint8)}])
