"""SIGTERM, which asks a run to save and leave."""

from collections.abc import Iterator
import signal
import threading
from typing import Any


class Preempted(Exception):
  """SIGTERM came while the split was being scored."""


class PreemptionGuard:
  """Hears SIGTERM, so that the loop can save and leave."""

  def __enter__(self) -> 'PreemptionGuard':
    self.requested = False  # set by the signal
    # Only the main thread may set handlers (tests may train in others).
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      self._old = signal.signal(signal.SIGTERM, self._on_sigterm)
    return self

  def _on_sigterm(self, *_: Any) -> None:
    self.requested = True

  def interruptible(self, examples: Iterator[dict]) -> Iterator[dict]:
    """Passes examples on until a SIGTERM; then raises `Preempted`."""
    for example in examples:
      if self.requested:
        raise Preempted
      yield example

  def __exit__(self, *_: Any) -> None:
    if self._main:
      signal.signal(signal.SIGTERM, self._old)
