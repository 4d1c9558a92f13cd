"""How many processor cores there are to use."""

import os


def usable() -> int:
  """Returns the number of processor cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # Linux alone
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
