"""Names of prepared data that change with the files it is made of."""

from collections.abc import Iterable
from collections.abc import Iterator
import hashlib
import os
import pathlib
import re
import stat
from typing import Any


def hash_files(split: str, paths: Iterable[pathlib.Path], settings: Any) -> str:
  """Returns the split and 12 hex digits that change with any file or fact.

  Args:
    split: name of the split.
    paths: files, and folders for the files that lie in them; names, sizes and
      modification times count.
    settings: how the files are read; what differs must print differently.
  """
  digest = hashlib.sha256(repr((split, settings)).encode())
  for path in paths:
    for name, state in _stat_files(path):
      digest.update(f'{name}|{state.st_size}|{state.st_mtime_ns}\n'.encode())
  return re.sub(r'\W', '_', split) + '_' + digest.hexdigest()[:12]


def _stat_files(path: pathlib.Path) -> Iterator[tuple[str, os.stat_result]]:
  """Yields the name and the state of a file, or of each file of a folder."""
  state = os.stat(path)
  if not stat.S_ISDIR(state.st_mode):
    yield str(path), state
    return
  with os.scandir(path) as entries:
    for entry in sorted(entries, key=lambda entry: entry.name):
      if entry.is_file():
        yield entry.path, entry.stat()
