"""The machine: processor cores, files written atomically, downloads, stderr."""

import contextlib
import http.client
import json
import math
import os
import shutil
import sys
import tempfile
from typing import Any
import urllib.request

import numpy as np
import tqdm


def cpu_count() -> int:
  """Returns the number of processor cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # Linux alone
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


_CHUNK_BYTES = 1 << 20


_TIMEOUT_SECONDS = 30  # seconds without an answer


def download(url: str, file: Any, name: str) -> None:
  """Copies what stands at an address; on a terminal a bar shows how far it is.

  Args:
    url: the address.
    file: what it is written to, open for bytes and empty.
    name: what the bar calls it.

  Raises:
    OSError: no network, no such address, or less than was promised.
  """
  try:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
      length = int(answer.headers.get('Content-Length') or 0)
      with tqdm.tqdm.wrapattr(
        *(answer, 'read'),
        total=length or None,
        desc=name,
        unit_scale=True,
        unit='B',
        leave=False,
        disable=None,
      ) as read:
        shutil.copyfileobj(read, file, _CHUNK_BYTES)
  except http.client.HTTPException as error:
    raise OSError(repr(error)) from error
  if length and file.tell() != length:
    raise OSError(f'{file.tell()} bytes of {length} came')


def write_text(path: str, text: str) -> None:
  """Writes a file whole or not at all."""
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  temporary = f'{path}.{os.getpid()}.tmp'
  with open(temporary, 'w', encoding='utf-8') as f:
    f.write(text)
  os.replace(temporary, path)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes strict JSON, NaN as null, whole or not at all."""
  text = json.dumps(to_jsonable(value), indent=2, allow_nan=False)
  write_text(os.fspath(path), text + '\n')


def to_jsonable(value: Any) -> Any:
  """Returns what strict JSON can hold: NaN and infinities become None."""
  if isinstance(value, dict):
    return {str(key): to_jsonable(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [to_jsonable(item) for item in value]
  if isinstance(value, np.ndarray | np.generic):
    return to_jsonable(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


@contextlib.contextmanager
def capture_stderr():
  """Holds back what C++ code writes to stderr.

  Yields:
    A function that returns what has been held back so far.
  """
  sys.stderr.flush()
  with tempfile.TemporaryFile() as held:
    saved = os.dup(2)
    os.dup2(held.fileno(), 2)

    def text() -> str:
      held.seek(0)
      return held.read().decode(errors='replace')

    try:
      yield text
    finally:
      os.dup2(saved, 2)
      os.close(saved)
