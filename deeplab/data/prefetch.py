"""Work done ahead of its reader by threads, in order."""

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
  """Yields make(key) for each key in turn, computed ahead by threads.

  Close it (`.close()`) to end its threads early. An error in a thread reaches
  the caller at the key that it belongs to.

  Args:
    make: is called in several threads at once.
    keys: read as they are needed; may be endless.
    threads: number of threads, at least 1.
    prefetch: number of results in work or waiting, at least 1.
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
