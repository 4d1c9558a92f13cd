"""The machine: cores, atomic files, strict JSON, downloads, progress, stderr.

Nothing here knows about segmentation. Imports no other module of the project
but `text`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import functools
import http.client
import json
import math
import os
import queue
import sys
import tempfile
import threading
import time
from typing import Any
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


def write_text(path: str, content: str) -> None:
  """Writes a text file atomically, and creates its folder.

  Readers see the old file or the whole new one, never a part.
  """
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  temporary = f'{path}.{os.getpid()}.tmp'
  with open(temporary, 'w', encoding='utf-8') as f:
    f.write(content)
  os.replace(temporary, path)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes strict JSON atomically: NaN and infinities become null."""
  content = json.dumps(to_jsonable(value), indent=2, allow_nan=False)
  write_text(os.fspath(path), content + '\n')


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
