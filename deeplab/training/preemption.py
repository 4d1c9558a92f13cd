"""SIGTERM, which asks a run to save and leave."""

from collections.abc import Iterator
import signal
import threading
from typing import Any


class Told(Exception):
  """SIGTERM came while the split was being scored."""


class Stop:
  """Hears SIGTERM, so that the loop can save and leave."""

  def __enter__(self) -> 'Stop':
    self.asked = False  # set by the signal
    # Only the main thread may set handlers (tests may train in others).
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      self._old = signal.signal(signal.SIGTERM, self._hear)
    return self

  def _hear(self, *_: Any) -> None:
    self.asked = True

  def watch(self, examples: Iterator[dict]) -> Iterator[dict]:
    """Passes examples on until a SIGTERM; then raises `Told`."""
    for example in examples:
      if self.asked:
        raise Told
      yield example

  def __exit__(self, *_: Any) -> None:
    if self._main:
      signal.signal(signal.SIGTERM, self._old)
