"""Names of prepared data that change when its raw files change."""

from collections.abc import Iterable
from collections.abc import Iterator
import hashlib
import os
import pathlib
import re
import stat


def hash_files(split: str, paths: Iterable[pathlib.Path], settings: str) -> str:
  """Returns the name of the split and a fingerprint of its raw files.

  An edited mask therefore gets a new folder of prepared data and is never
  served stale. For the same reason any change of `settings`, even of its
  spelling, prepares the data again: that of a published data set is the text of
  its `DatasetInfo`, terms and instructions included.

  Args:
    split: name of the split.
    paths: files, or folders whose files count; the fingerprint covers names,
      sizes and modification times.
    settings: text that describes how the files are read.

  Returns:
    `split`, an underscore and 12 hexadecimal digits.
  """
  digest = hashlib.sha256(f'({split!r}, {settings})'.encode())
  for path in paths:
    for name, status in _stat_files(path):
      line = f'{name}|{status.st_size}|{status.st_mtime_ns}\n'
      digest.update(line.encode())
  return re.sub(r'\W', '_', split) + '_' + digest.hexdigest()[:12]


def _stat_files(path: pathlib.Path) -> Iterator[tuple[str, os.stat_result]]:
  """Yields path and status of a file, or of each file of a folder."""
  status = os.stat(path)
  if not stat.S_ISDIR(status.st_mode):
    yield str(path), status
    return
  with os.scandir(path) as entries:
    for entry in sorted(entries, key=lambda entry: entry.name):
      if entry.is_file():
        yield entry.path, entry.stat()
