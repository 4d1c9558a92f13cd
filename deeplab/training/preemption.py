"""Preemption: SIGTERM makes a run save a checkpoint and exit."""

from collections.abc import Callable
from collections.abc import Iterator
import os
import signal
import sys
import threading
import time
from typing import Any
from typing import TypeVar

T = TypeVar('T')

# Exit status of a process that SIGTERM ended, as shells report it.
EXIT_STATUS = 128 + signal.SIGTERM
# `timeout` and batch systems signal a process and its group: that is one.
_SAME_SIGNAL_SECONDS = 1.0
_POLL_SECONDS = 0.1
# A thread that is not in the compiler ends within the time of a batch.
_ABANDONED_SECONDS = 2.0


class Preempted(Exception):
  """SIGTERM arrived during an evaluation."""


class PreemptionGuard:
  """Catches SIGTERM, so that the training loop can save and exit.

  Python runs signal handlers between two instructions of the main thread, which
  may spend minutes in the compiler. A second thread is told by the operating
  system at once (`signal.set_wakeup_fd`). It ends the process where there is
  nothing to save yet, and at a second signal. Where there is, an evaluation
  runs in a thread of its own (`run_interruptible`), which the loop leaves alone
  in the compiler while it saves.

  Attributes:
    requested: True once SIGTERM has arrived.
    has_progress: True once training has taken a step. Until then, SIGTERM ends
      the process at once.
  """

  def __init__(self, workdir: str):
    """Names the work directory, for messages."""
    self._workdir = workdir

  def __enter__(self) -> 'PreemptionGuard':
    self.requested = False
    self.has_progress = False
    self._abandoned: threading.Thread | None = None
    # Only the main thread may set handlers; tests may train in another one.
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      receiver, self._sender = os.pipe()
      os.set_blocking(self._sender, False)
      self._old = signal.signal(signal.SIGTERM, self._on_sigterm)
      self._old_wakeup = signal.set_wakeup_fd(
        self._sender, warn_on_full_buffer=False
      )
      self._watcher = threading.Thread(
        target=self._watch, args=(receiver,), daemon=True
      )
      self._watcher.start()
    return self

  def _on_sigterm(self, *_: Any) -> None:
    self.requested = True

  def _watch(self, receiver: int) -> None:
    """Reads the numbers of signals until the pipe is closed."""
    first = None
    while number := os.read(receiver, 1):
      now = time.monotonic()
      if first is None:
        if number[0] != signal.SIGTERM:
          continue
        first = now
        if not self.has_progress:
          self._end('nothing to save, no step was taken')
      elif now - first > _SAME_SIGNAL_SECONDS:
        self._end('a second signal, the newest checkpoint stands')
    os.close(receiver)

  def _end(self, reason: str) -> None:
    """Ends the process without waiting for the main thread."""
    line = (
      f'SIGTERM: {reason}; the same command with --workdir={self._workdir} '
      'goes on\n'
    )
    # Not the log, whose lock the main thread may hold.
    os.write(2, line.encode())
    os._exit(EXIT_STATUS)

  def interruptible(self, examples: Iterator[dict]) -> Iterator[dict]:
    """Yields the examples, and raises `Preempted` once SIGTERM arrives."""
    for example in examples:
      if self.requested:
        raise Preempted
      yield example

  def run_interruptible(self, work: Callable[[], T]) -> T:
    """Returns the result of a function that runs in another thread.

    Args:
      work: the function; ends by itself once SIGTERM arrives and it is not in
        native code, as one that iterates over `interruptible` examples does.

    Raises:
      Preempted: SIGTERM arrived; the thread may go on for a while.
    """
    result: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
      try:
        result.append(work())
      except BaseException as error:
        errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
      while thread.is_alive() and not self.requested:
        thread.join(_POLL_SECONDS)
    except KeyboardInterrupt:
      self.requested = True  # the thread ends after its batch
      thread.join()
      raise
    if result:
      return result[0]
    if errors:
      raise errors[0]
    self._abandoned = thread
    raise Preempted

  def __exit__(self, kind: Any, *_: Any) -> None:
    if self._abandoned and kind is None:
      self._abandoned.join(_ABANDONED_SECONDS)
      if self._abandoned.is_alive():
        # It is in the compiler, and Python waits for no such thread: to unload
        # its libraries meanwhile may crash. Everything is written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    if self._main:
      signal.set_wakeup_fd(self._old_wakeup)
      signal.signal(signal.SIGTERM, self._old)
      os.close(self._sender)
      self._watcher.join()
