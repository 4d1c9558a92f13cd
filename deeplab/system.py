"""The machine: cores, locks, atomic files, strict JSON, downloads, progress.

Nothing here knows about segmentation. Imports no other module of the project
but `text`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import errno
import fcntl
import functools
import http.client
import itertools
import json
import math
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from typing import Any
from typing import BinaryIO
import urllib.request

from absl import logging
import numpy as np
import tqdm

from deeplab import text

_DOWNLOAD_CHUNK_BYTES = 1 << 20
_DOWNLOAD_QUEUE_BLOCKS = 8
# A server that sends less in this time is given up: about 1 KB/s.
STALL_SECONDS = 60.0
STALL_BYTES = 1 << 16

# Errors of a write that more space would have let pass.
_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Temporary files are named `.partial-PID-NUMBER-NAME`.
_PARTIAL_PREFIX = '.partial-'
_partial_numbers = itertools.count()


def cpu_count() -> int:
  """Returns the number of processor cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # Linux only
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _receive(url: str, parts: queue.Queue) -> None:
  """Puts the length of an answer, its blocks and b'' into a queue.

  An error ends it. Nobody may listen any more: then so does a full queue.
  """
  put = functools.partial(parts.put, timeout=2 * STALL_SECONDS)
  try:
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as response:
      # Others come with a part of the file, with another one or without any.
      if response.status not in (None, 200):  # None: no server, a local file
        raise OSError(f'the server answered {response.status}, not the file')
      encoding = response.headers.get('Content-Encoding', 'identity')
      if encoding != 'identity':
        raise OSError(f'the answer is packed ({encoding})')
      length = response.headers.get('Content-Length', '')
      if length and not length.isdecimal():
        raise OSError(f'the answer has the length {length!r}')
      put(int(length) if length else None)
      while block := response.read1(_DOWNLOAD_CHUNK_BYTES):
        put(block)
      put(b'')
  except queue.Full:
    pass
  except Exception as error:
    with contextlib.suppress(queue.Full):
      put(error)


def _received_parts(url: str) -> Iterator[Any]:
  """Yields the length of an answer, or None, and then its blocks of bytes.

  The network is read in a thread of its own, since a server that sends a byte
  a second, in its headers or anywhere, keeps a reader waiting for ever.
  """
  parts: queue.Queue = queue.Queue(_DOWNLOAD_QUEUE_BLOCKS)
  threading.Thread(target=_receive, args=(url, parts), daemon=True).start()
  start, count = time.monotonic(), 0
  while True:
    try:
      part = parts.get(timeout=STALL_SECONDS)
    except queue.Empty:
      raise OSError(
        f'the server sent nothing in {STALL_SECONDS} seconds'
      ) from None
    if isinstance(part, http.client.HTTPException):
      raise OSError(repr(part)) from part
    if isinstance(part, Exception):
      raise part
    if part == b'':
      return
    yield part
    if isinstance(part, bytes):
      count += len(part)
    now = time.monotonic()
    if now - start >= STALL_SECONDS:
      # With blocks waiting, it is this machine that is slow.
      if count < STALL_BYTES and parts.empty():
        raise OSError(
          f'the server sent only {count} bytes in {now - start:.0f} seconds'
        )
      start, count = now, 0


def download(url: str, file: Any, name: str, max_bytes: int = 64 << 30) -> None:
  """Downloads a URL to an open file, with a progress bar on a terminal.

  Only a whole answer of the file itself is accepted. That it is the right file
  is for the caller to check.

  Args:
    url: the address.
    file: binary file object, open for writing and empty.
    name: label of the progress bar.
    max_bytes: longest answer that is accepted.

  Raises:
    OSError: the network or the address is not available, the answer is not the
      whole file, or the server sends less than `STALL_BYTES` in
      `STALL_SECONDS`.
  """
  parts = _received_parts(url)
  length = next(parts)
  if (length or 0) > max_bytes:
    raise OSError(f'the file has {length} bytes, more than {max_bytes}')
  count = 0
  with tqdm.tqdm(
    total=length or None,
    desc=name,
    unit_scale=True,
    unit='B',
    leave=False,
    disable=None,
  ) as bar:
    for block in parts:
      count += len(block)
      if count > max_bytes:
        raise OSError(f'the server sent more than {max_bytes} bytes')
      file.write(block)
      bar.update(len(block))
  if length is not None and count != length:
    raise OSError(f'received {count} of {length} bytes')
  if not count:
    raise OSError('the answer is empty')


@contextlib.contextmanager
def explain_write_errors(path: str | os.PathLike) -> Iterator[None]:
  """Turns errors of writing below a path into one that names it.

  The error of a full disk names no file by itself.

  Args:
    path: the file or folder that is written.

  Raises:
    OSError: nothing can be written there; the message has path, cause and
      remedy.
  """
  try:
    yield
  except OSError as error:
    if error.errno is None:  # has its message
      raise
    raise write_error(path, error) from error


def full_disk_reason(error: Exception) -> str:
  """Returns the reason of an error that more space would have prevented.

  Args:
    error: of Python, or of native code that quotes the operating system.

  Returns:
    Such as 'No space left on device'; '' for other errors.
  """
  reasons = map(os.strerror, _SPACE_ERRORS)
  return next((reason for reason in reasons if reason in str(error)), '')


def write_error(path: str | os.PathLike, error: Exception) -> OSError:
  """Returns an error that names the path that could not be written."""
  full = full_disk_reason(error)
  reason = full or getattr(error, 'strerror', None) or str(error)
  remedy = '; free some space and run the same command again' if full else ''
  return OSError(f'could not write {os.fspath(path)}: {reason}{remedy}')


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[str]:
  """Yields the path of a temporary file that becomes `path` on success.

  Readers see the old file or the whole new one, never a part. The folder is
  created, and what killed processes left there is removed. The temporary file
  lies beside `path`, has its suffix, and is locked, so that it is known as a
  leftover once its process is dead.

  Args:
    path: the file to write.

  Raises:
    OSError: it cannot be written; the message names it.
  """
  folder, name = os.path.split(os.path.abspath(path))
  with explain_write_errors(path):
    os.makedirs(folder, exist_ok=True)
    remove_leftovers(folder)
    with _create_partial(folder, name) as file:
      try:
        yield file.name
        os.replace(file.name, path)
      finally:
        with contextlib.suppress(FileNotFoundError):
          os.unlink(file.name)


def _create_partial(folder: str, name: str) -> BinaryIO:
  """Creates and locks an empty temporary file; closing it unlocks it."""
  while True:
    # Only the end of a long name, or the temporary one would be too long.
    start = f'{_PARTIAL_PREFIX}{os.getpid()}-{next(_partial_numbers)}-'
    file = open(os.path.join(folder, start + name[-40:]), 'xb')  # noqa: SIM115
    try:
      # Shared: a library that locks what it reads, as HDF5 does, may read it.
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
      if os.fstat(file.fileno()).st_nlink:
        return file
    except BlockingIOError:
      pass
    except OSError:  # some file systems have no locks
      return file
    file.close()  # another process took it for a leftover before it was locked


@functools.cache  # once a process: a folder may hold many results
def remove_leftovers(folder: str) -> None:
  """Removes temporary files whose process is dead from a folder.

  Those of processes that live, on this machine or on another one, are locked
  and stay.
  """
  for name in os.listdir(folder):
    if not name.startswith(_PARTIAL_PREFIX):
      continue
    path = os.path.join(folder, name)
    with contextlib.suppress(OSError), _open_to_lock(path) as descriptor:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if os.path.isdir(path):
        shutil.rmtree(path)
      else:
        os.unlink(path)


@contextlib.contextmanager
def _open_to_lock(path: str) -> Iterator[int]:
  """Opens a file or a folder; closing it releases its lock."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def partial_folder(path: str | os.PathLike) -> Iterator[str]:
  """Yields a temporary folder beside `path`, to be renamed to it.

  What is under its name at the end is removed, and so is what killed processes
  left beside `path`: it is locked while its process lives.

  Args:
    path: the folder to write.

  Raises:
    OSError: it cannot be made.
  """
  parent, name = os.path.split(os.path.abspath(path))
  with explain_write_errors(path):
    os.makedirs(parent, exist_ok=True)
    remove_leftovers(parent)
    start = f'{_PARTIAL_PREFIX}{os.getpid()}-{next(_partial_numbers)}-'
    folder = os.path.join(parent, start + name[-40:])
    os.mkdir(folder)
  with _open_to_lock(folder) as descriptor:
    with contextlib.suppress(OSError):  # some file systems have no locks
      fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    try:
      yield folder
    finally:
      shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | os.PathLike, content: str) -> None:
  """Writes a text file atomically, and creates its folder.

  Raises:
    OSError: it cannot be written; the message names it.
  """
  with (
    write_atomically(path) as temporary,
    open(temporary, 'w', encoding='utf-8') as f,
  ):
    f.write(content)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes strict JSON atomically: NaN and infinities become null."""
  content = json.dumps(to_jsonable(value), indent=2, allow_nan=False)
  write_text(path, content + '\n')


def to_jsonable(value: Any) -> Any:
  """Converts nested containers and NumPy arrays to what strict JSON can hold.

  NaN and infinities become None, arrays and tuples become lists, keys strings.
  """
  if isinstance(value, dict):
    return {str(key): to_jsonable(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [to_jsonable(item) for item in value]
  if isinstance(value, np.ndarray | np.generic):
    return to_jsonable(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def track_progress(
  items: Iterable,
  total: int | None,
  description: str,
  log_every_seconds: float = 30.0,
  size: Callable[[Any], int] = lambda item: 1,
) -> Iterator:
  """Yields items, with a progress bar on a terminal and log lines elsewhere.

  Args:
    items: the items; one counts as done when the next is requested.
    total: number of images in all items, if known.
    description: a word or two for the bar and the log.
    log_every_seconds: time between log lines.
    size: returns the number of images in an item.
  """
  if sys.stderr.isatty():
    with tqdm.tqdm(
      total=total, desc=description, unit='image', dynamic_ncols=True
    ) as bar:
      for item in items:
        yield item
        bar.update(size(item))
    return
  start = last = time.monotonic()
  count = 0
  of_total = '' if total is None else f' of {total}'
  for item in items:
    yield item
    count += size(item)
    now = time.monotonic()
    if now - last >= log_every_seconds:
      last = now
      logging.info(
        '%s: %d%s images, %.1f images/s',
        description,
        count,
        of_total,
        count / (now - start),
      )
  seconds = max(time.monotonic() - start, 1e-6)
  images = text.plural(count, 'image')
  logging.info('%s: %s in %.1f s', description, images, seconds)


@contextlib.contextmanager
def path_without_patterns(folder: str | os.PathLike) -> Iterator[str]:
  """Yields a path of a folder for TensorFlow, which takes paths for patterns.

  It finds no file below a folder like `lr[1]`. Such a folder is reached by a
  link in the folder of temporary files.
  """
  folder = os.path.abspath(folder)
  if not set(folder) & set('*?[\\'):
    yield folder
    return
  with tempfile.TemporaryDirectory() as parent:
    link = os.path.join(parent, 'folder')
    os.symlink(folder, link)
    yield link


def hide_accelerators(tf: Any) -> None:
  """Keeps TensorFlow on the CPU, and its log at errors.

  It would reserve the accelerators' memory, which is JAX's. Modules that import
  TensorFlow late call this before they use it; it has no effect once
  TensorFlow has used an accelerator.

  Args:
    tf: the module `tensorflow`.
  """
  for kind in ('GPU', 'TPU'):
    with contextlib.suppress(RuntimeError):
      tf.config.set_visible_devices([], kind)
  tf.get_logger().setLevel('ERROR')


@contextlib.contextmanager
def capture_stderr() -> Iterator[Callable[[], str]]:
  """Captures what native code writes to stderr, past Python's `sys.stderr`.

  Yields:
    A function that returns the text captured so far.
  """
  sys.stderr.flush()
  with tempfile.TemporaryFile() as captured:
    saved = os.dup(2)
    os.dup2(captured.fileno(), 2)

    def read_captured() -> str:
      captured.seek(0)
      return captured.read().decode(errors='replace')

    try:
      yield read_captured
    finally:
      os.dup2(saved, 2)
      os.close(saved)
