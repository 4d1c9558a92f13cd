"""The machine: cores, atomic files, strict JSON, downloads, progress, stderr.

Nothing here knows about segmentation. Imports no other module of the project
but `text`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import http.client
import json
import math
import os
import shutil
import sys
import tempfile
import time
from typing import Any
import urllib.request

from absl import logging
import numpy as np
import tqdm

from deeplab import text

_DOWNLOAD_CHUNK_BYTES = 1 << 20
_DOWNLOAD_TIMEOUT_SECONDS = 30


def cpu_count() -> int:
  """Returns the number of processor cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # Linux only
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def download(url: str, file: Any, name: str) -> None:
  """Downloads a URL to an open file, with a progress bar on a terminal.

  Args:
    url: the address.
    file: binary file object, open for writing and empty.
    name: label of the progress bar.

  Raises:
    OSError: the network or the address is not available, or the connection
      ended before all bytes arrived.
  """
  try:
    with urllib.request.urlopen(
      url, timeout=_DOWNLOAD_TIMEOUT_SECONDS
    ) as response:
      length = int(response.headers.get('Content-Length') or 0)
      with tqdm.tqdm.wrapattr(
        *(response, 'read'),
        total=length or None,
        desc=name,
        unit_scale=True,
        unit='B',
        leave=False,
        disable=None,
      ) as body:
        shutil.copyfileobj(body, file, _DOWNLOAD_CHUNK_BYTES)
  except http.client.HTTPException as error:
    raise OSError(repr(error)) from error
  if length and file.tell() != length:
    raise OSError(f'received {file.tell()} of {length} bytes')


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
