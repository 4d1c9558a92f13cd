"""Prefetching: order, limit, errors, and early close."""

import itertools
import threading
import time

import pytest

from deeplab.data import prefetch


def test_results_are_in_order():
  def make(i):
    time.sleep(0.01 * (i % 3 == 0))
    return i * i

  assert list(prefetch.parallel_map(make, range(20), 4, 8)) == [
    i * i for i in range(20)
  ]
  assert list(prefetch.parallel_map(make, (), 4, 8)) == []


def test_at_most_prefetch_results_are_in_progress():
  begun = []
  results = prefetch.parallel_map(begun.append, itertools.count(), 2, 3)
  next(results)
  results.close()
  assert 0 in begun
  assert {*begun} <= {0, 1, 2, 3}
  assert not [t for t in threading.enumerate() if t.name.startswith('data')]


def test_an_error_is_raised_at_its_key():
  results = prefetch.parallel_map(lambda i: 1 // (2 - i), range(9), 2, 9)
  assert [next(results), next(results)] == [0, 1]
  with pytest.raises(ZeroDivisionError):
    next(results)
