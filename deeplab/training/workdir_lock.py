"""The lock of a work directory: one process at a time trains there."""

import contextlib
import fcntl
import os
import socket
import time
from typing import Any
from typing import TextIO

from absl import logging

from deeplab import system

_NAME = '.lock'


class WorkdirLock:
  """The right to train in a work directory.

  It is a lock of the operating system on the file `.lock`, which also names the
  process. It ends with the process, however that ends. Of several hosts, the
  first one takes it for all.
  """

  def __init__(self, workdir: str, *, needed: bool = True):
    """Names the work directory.

    Args:
      workdir: the work directory.
      needed: False for processes that write nothing: no lock is taken.
    """
    self._workdir = workdir
    self._needed = needed
    self._file: TextIO | None = None

  def __enter__(self) -> 'WorkdirLock':
    """Takes the lock, unless the work directory does not exist yet."""
    if os.path.isdir(self._workdir):
      self.acquire()
    return self

  def acquire(self) -> None:
    """Takes the lock, if that was not done; creates the work directory.

    Raises:
      ValueError: another process trains there.
      OSError: the directory cannot be written.
    """
    if self._file is not None or not self._needed:
      return
    with system.explain_write_errors(self._workdir):
      os.makedirs(self._workdir, exist_ok=True)
      self._file = self._open_and_lock()

  def _open_and_lock(self) -> TextIO:
    """Opens the locked file, and writes into it who locked it."""
    path = os.path.join(self._workdir, _NAME)
    while True:
      file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or 'another process'
        file.close()
        raise ValueError(
          f'{self._workdir} is in use: {owner} trains there; wait for it or '
          'stop it, or choose another --workdir'
        ) from None
      except OSError as error:
        logging.warning(
          '%s cannot be locked (%s): do not train there twice at a time',
          *(self._workdir, error),
        )
      if os.fstat(file.fileno()).st_nlink:
        break
      file.close()  # its owner removed it between the two calls
    file.truncate(0)
    file.write(
      f'process {os.getpid()} on {socket.gethostname()}, since '
      f'{time.strftime("%Y-%m-%d %H:%M:%S")},\n'
    )
    file.flush()
    return file

  def __exit__(self, *_: Any) -> None:
    if self._file is not None:
      with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(self._workdir, _NAME))
      self._file.close()
      self._file = None
