"""Errors of single examples, and notes, while raw data is prepared.

By default the first error ends the preparation. Inside `collect_errors`, which
the doctor uses, errors are collected instead: an example with an error is left
out, the others are still read, and the preparation fails at its end, so that a
data set with errors is never prepared.
"""

from collections.abc import Iterator
import contextlib
import contextvars
import functools
import threading

from absl import logging

_COLLECTED: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
  'collected', default=None
)
_NOTES: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
  'notes', default=None
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


@contextlib.contextmanager
def collect_notes() -> Iterator[list[str]]:
  """Collects notes instead of logging them; yields the list of texts."""
  texts: list[str] = []
  token = _NOTES.set(texts)
  try:
    yield texts
  finally:
    _NOTES.reset(token)


# What `count_left_out` counted in all threads of one preparation.
_left_out: list[str] = []
_left_out_lock = threading.Lock()


def count_left_out(text: str) -> None:
  """Counts a part of an annotation that is left out; any thread may call it."""
  with _left_out_lock:
    _left_out.append(text)


def take_left_out() -> str:
  """Returns what was counted since the last call, as half a sentence, or ''."""
  with _left_out_lock:
    texts = sorted(_left_out)
    _left_out.clear()
  return f'{len(texts)} shapes left out, such as {texts[0]}' if texts else ''


def note(text: str) -> None:
  """Tells the user about files that are left out or found elsewhere.

  Args:
    text: a sentence that begins with the file or folder. It is added to the
      texts of `collect_notes`, or else logged, once.
  """
  texts = _NOTES.get()
  if texts is None:
    _log_once(text)
  elif text not in texts:
    texts.append(text)


@functools.lru_cache(maxsize=1024)  # a command lists the files more than once
def _log_once(text: str) -> None:
  logging.warning('%s', text)
