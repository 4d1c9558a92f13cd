"""Preemption: SIGTERM makes a run save a checkpoint and exit."""

from collections.abc import Iterator
import signal
import threading
from typing import Any


class Preempted(Exception):
  """SIGTERM arrived during an evaluation."""


class PreemptionGuard:
  """Catches SIGTERM, so that the training loop can save and exit.

  Attributes:
    requested: True once SIGTERM has arrived.
  """

  def __enter__(self) -> 'PreemptionGuard':
    self.requested = False
    # Only the main thread may set handlers; tests may train in another one.
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      self._old = signal.signal(signal.SIGTERM, self._on_sigterm)
    return self

  def _on_sigterm(self, *_: Any) -> None:
    self.requested = True

  def interruptible(self, examples: Iterator[dict]) -> Iterator[dict]:
    """Yields the examples, and raises `Preempted` once SIGTERM arrives."""
    for example in examples:
      if self.requested:
        raise Preempted
      yield example

  def __exit__(self, *_: Any) -> None:
    if self._main:
      signal.signal(signal.SIGTERM, self._old)
