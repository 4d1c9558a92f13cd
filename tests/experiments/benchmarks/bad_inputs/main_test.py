"""The command of bad inputs, and a small campaign of quick kinds."""

from absl import flags
import pytest

from experiments.benchmarks.bad_inputs import __main__ as command
from experiments.benchmarks.bad_inputs import input_kinds
from experiments.benchmarks.bad_inputs import trials


def _values(*arguments):
  values = flags.FlagValues()
  command.define_flags(values)
  values(['bad_inputs', *arguments])
  return values


def test_trials_are_shared_among_the_kinds():
  planned = command.plan_trials(5, 7, ['a', 'b'])
  assert [str(trial) for trial in planned] == [
    'a:0',
    'a:1',
    'a:2',
    'b:0',
    'b:1',
  ]
  assert {trial.seed for trial in planned} == {7}


@pytest.mark.full
@pytest.mark.parametrize('name', input_kinds.KINDS)
def test_no_kind_fails(name):
  planned = command.plan_trials(40, 1, [name])
  found = list(
    command.run_trials(planned, input_kinds.KINDS, trials.Limits(), 2)
  )
  assert command.format_failures(found) == ''


def _result(outcome, line='', place='', **fields):
  return trials.Result(outcome, line, place, **fields)


FOUND = [
  (trials.Trial('coco', 0), _result('sentence', memory_bytes=3 << 20)),
  (trials.Trial('coco', 1), _result('traceback', 'TypeError: x', 'a.py:1')),
  (trials.Trial('coco', 2), _result('traceback', 'TypeError: y', 'a.py:1')),
  (trials.Trial('pth', 0), _result('hang', 'no end after 10 s', seconds=10.0)),
]


def test_table():
  rows = command.format_table(FOUND).replace(' ', '').splitlines()
  assert rows[0] == (
    '|kind|tried|same|other|sentence|traceback|hang|memory|crash|'
    'wroteoutside|readoutside|executed|peak,MiB|slowest,s|'
  )
  assert rows[2:] == [
    '|coco|3|0|0|1|2|0|0|0|0|0|0|3|0.0|',
    '|pth|1|0|0|0|0|1|0|0|0|0|0|0|10.0|',
    '|all|4|0|0|1|2|1|0|0|0|0|0|3|10.0|',
  ]


def test_failures_of_one_place_are_one_line_with_a_command_that_repeats_it():
  assert command.format_failures(FOUND).splitlines() == [
    'traceback x2 a.py:1: TypeError: x',
    '  --seed=0 --only=coco:1',
    'hang x1 : no end after 10 s',
    '  --seed=0 --only=pth:0',
  ]


def test_unknown_kinds_and_trials_are_sentences():
  with pytest.raises(ValueError, match=r'--kinds=gif: kinds are png, jpeg'):
    command._run(_values('--kinds=png,gif'))
  for name in ('coco', 'coco:x', 'gif:1'):
    with pytest.raises(ValueError, match='is not KIND:NUMBER; kinds are png'):
      command._run(_values(f'--only={name}'))
