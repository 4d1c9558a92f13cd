"""What is wrong with single examples of raw data.

The first fault ends a preparation, and its sentence is the error. The doctor
collects them instead: an example with a fault is left out, the others are
looked at, and nothing is prepared in the end.
"""

from collections.abc import Iterator
import contextlib
import contextvars

_COLLECTED: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
  'collected', default=None
)


@contextlib.contextmanager
def collect_errors() -> Iterator[list[str]]:
  """Yields the list that faults are added to until the end."""
  found: list[str] = []
  token = _COLLECTED.set(found)
  try:
    yield found
  finally:
    _COLLECTED.reset(token)


def raise_or_collect(error: ValueError) -> None:
  """Raises an error, or adds its sentence where faults are collected."""
  found = _COLLECTED.get()
  if found is None:
    raise error
  found.append(str(error))


@contextlib.contextmanager
def catch_and_collect() -> Iterator[None]:
  """Reports a ValueError of one example; what follows goes on without it."""
  try:
    yield
  except ValueError as error:
    raise_or_collect(error)


def raise_collected() -> None:
  """Raises ValueError if faults are collected and there are any."""
  found = _COLLECTED.get()
  if found:
    raise ValueError(found[0])
