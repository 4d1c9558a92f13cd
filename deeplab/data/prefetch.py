"""Ordered prefetching with threads."""

import collections
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from concurrent import futures
import itertools
from typing import Any


def parallel_map(
  make: Callable[[Any], Any], keys: Iterable[Any], threads: int, prefetch: int
) -> Generator[Any]:
  """Yields make(key) for each key in order, computed ahead by threads.

  Close the generator (`.close()`) to end its threads early. An exception in a
  thread is raised to the caller at its key.

  Args:
    make: function of a key; called in several threads at once.
    keys: keys, read only as far as needed; may be endless.
    threads: number of threads, at least 1.
    prefetch: maximum number of results in progress or waiting, at least 1.
  """
  keys = iter(keys)
  with futures.ThreadPoolExecutor(threads, 'data') as pool:
    pending = collections.deque(
      pool.submit(make, key) for key in itertools.islice(keys, prefetch)
    )
    try:
      while pending:
        result = pending.popleft().result()
        pending.extend(
          pool.submit(make, key) for key in itertools.islice(keys, 1)
        )
        yield result
    finally:
      for future in pending:
        future.cancel()
