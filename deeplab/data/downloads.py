"""Archives from where their authors keep them."""

from collections.abc import Mapping
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
from typing import Any

from deeplab import transfer


def fetch(
  dl_manager: Any, urls: Mapping[str, str], what: str, remedy: str
) -> dict[str, pathlib.Path]:
  """Downloads and unpacks archives, once.

  What they hold stays in the folder for downloads, and a second call needs no
  network. What was cut off or is damaged does not stay.

  Args:
    dl_manager: tfds' download manager, which names that folder.
    urls: address by any name.
    what: name of the data set.
    remedy: how to get it otherwise.

  Returns:
    The unpacked folder by the names in `urls`.

  Raises:
    ValueError: no network, no such file there, or not the whole of it.
  """
  base = pathlib.Path(dl_manager.download_dir)
  base.mkdir(parents=True, exist_ok=True)
  folders = {}
  for name, url in urls.items():
    try:
      folders[name] = _unpacked(base, url)
    except Exception as error:  # whatever the layers of archives raise
      raise ValueError(
        f'{what} could not be downloaded ({url}: {error}): {remedy}'
      ) from error
  return folders


def _unpacked(base: pathlib.Path, url: str) -> pathlib.Path:
  """Returns the folder with what the archive at an address holds."""
  key = hashlib.sha256(url.encode()).hexdigest()[:8]
  name = f'{key}_{url.rsplit("/", 1)[-1]}'
  archive, folder = base / name, base / f'{name}.unpacked'
  partial = base / f'{name}.unpacking'
  with open(base / f'{name}.lock', 'wb') as lock:
    with contextlib.suppress(OSError):  # a file system without locks
      fcntl.flock(lock, fcntl.LOCK_EX)
    if folder.is_dir():
      return folder
    shutil.rmtree(partial, ignore_errors=True)
    try:
      with open(archive, 'wb') as file:
        transfer.copy(url, file, name)
      options: Any = {} if archive.suffix == '.zip' else {'filter': 'data'}
      shutil.unpack_archive(archive, partial, **options)
      os.replace(partial, folder)
    finally:
      archive.unlink(missing_ok=True)
      shutil.rmtree(partial, ignore_errors=True)
  return folder
