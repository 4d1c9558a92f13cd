import math
import re

import numpy as np
import pytest

from export import sensitivity


class Study:
  """Modules whose damage is known, and adds up."""

  modules = ('encoder/a', 'encoder/b', 'head')

  def damage(self, quantized):
    noise = {'encoder/a': 1.0, 'encoder/b': 10.0, 'head': 0.1}
    total = sum(noise[name] for name in quantized)
    return {
      'sqnr_db': -10 * math.log10(total) if total else math.inf,
      'loss_points': total,
      'miou': 0.9 - total / 100,
    }


@pytest.mark.parametrize('mode', ['one', 'all_but_one'])
def test_the_worst_stands_first(mode):
  names = [row['module'] for row in sensitivity.rank(Study(), mode)]
  assert names == ['encoder/b', 'encoder/a', 'head']


@pytest.mark.parametrize(
  ('points', 'kept'),
  [(12.0, 0), (2.0, 1), (0.5, 2), (0.0, 3)],
)
def test_the_smallest_set_for_a_loss(points, kept):
  ranked = sensitivity.rank(Study(), 'one')
  found = sensitivity.smallest(Study(), ranked, points)
  assert found['modules'] == ['encoder/b', 'encoder/a', 'head'][:kept]
  assert found['loss_points'] <= points


def test_sqnr_by_hand():
  signal = [np.array([3.0, 4.0]), np.array([5.0])]  # energy 50
  found = [np.array([3.0, 4.5]), np.array([5.5])]  # error's 0.5
  assert sensitivity.sqnr(signal, found) == pytest.approx(20.0)
  assert sensitivity.sqnr(signal, signal) == math.inf


def test_switches_lie_where_modules_look():
  found = sensitivity.switches(['', 'encoder/a'], ['encoder/a'])
  assert found == {'on': 0.0, 'encoder': {'a': {'on': 1.0}}}


def test_the_regex_is_that_of_whole_paths():
  rules = sensitivity.rules_lib.Rules(
    float_layers=sensitivity.regex(['encoder/a', 'head'])
  )
  matches = lambda path: bool(re.fullmatch(rules.stays_float, path))
  assert [matches(p) for p in ('encoder/a', 'head', 'head/b', 'xhead')] == [
    True,
    True,
    False,
    False,
  ]
