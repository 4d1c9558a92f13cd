"""Calls a predictor from several threads, each with an image of its own."""

from concurrent import futures
import threading

import numpy as np

THREADS, CALLS = 8, 300


def count_wrong(predict, inputs):
  """Returns how many of `CALLS` outputs were wrong, for each input's thread.

  Args:
    predict: maps one input to an array; an error that it raises is raised here.
    inputs: one for each thread, whose outputs differ from each other.
  """
  expected = [np.array(predict(x)) for x in inputs]
  for i, one in enumerate(expected):
    assert not any(np.array_equal(one, x) for x in expected[:i])
  barrier = threading.Barrier(len(inputs))

  def call(i):
    barrier.wait()
    return sum(
      not np.array_equal(predict(inputs[i]), expected[i]) for _ in range(CALLS)
    )

  with futures.ThreadPoolExecutor(len(inputs)) as pool:
    return list(pool.map(call, range(len(inputs))))
