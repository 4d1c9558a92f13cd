"""Errors of single examples while raw data is prepared.

By default the first error ends the preparation. Inside `collect_errors`, which
the doctor uses, errors are collected instead: an example with an error is left
out, the others are still read, and the preparation fails at its end, so that a
data set with errors is never prepared.
"""

from collections.abc import Iterator
import contextlib
import contextvars

_COLLECTED: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
  'collected', default=None
)


@contextlib.contextmanager
def collect_errors() -> Iterator[list[str]]:
  """Collects errors instead of raising them; yields the list of messages."""
  messages: list[str] = []
  token = _COLLECTED.set(messages)
  try:
    yield messages
  finally:
    _COLLECTED.reset(token)


def raise_or_collect(error: ValueError) -> None:
  """Raises an error, or adds its message to those of `collect_errors`."""
  messages = _COLLECTED.get()
  if messages is None:
    raise error
  messages.append(str(error))


@contextlib.contextmanager
def catch_and_collect() -> Iterator[None]:
  """Passes a ValueError of one example to `raise_or_collect`.

  Where errors are collected, the code after the block runs without the example.
  """
  try:
    yield
  except ValueError as error:
    raise_or_collect(error)


def raise_collected() -> None:
  """Raises ValueError with the first collected message, if there is one."""
  messages = _COLLECTED.get()
  if messages:
    raise ValueError(messages[0])
