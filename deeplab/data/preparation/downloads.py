"""Downloads of official archives."""

from collections.abc import Iterable
import contextlib
import fcntl
import os
import pathlib
import shutil
from typing import Any

from deeplab import system


def download_and_unpack(
  dl_manager: Any, urls: Iterable[str], name: str, remedy: str
) -> pathlib.Path:
  """Downloads archives and unpacks them into one folder, each once.

  The unpacked files are kept, so that a second call needs no network. An
  archive that arrives incomplete or damaged is deleted. ZIP files inside an
  archive are unpacked beside themselves.

  Args:
    dl_manager: tfds' download manager; gives the folder for downloads.
    urls: addresses of the archives.
    name: name of the data set, for the folder and for messages.
    remedy: how to get the files without a download, for messages.

  Returns:
    The folder, laid out as `config.data.root` would be.

  Raises:
    ValueError: there is no network, or the file is missing at its address or
      arrives incomplete.
  """
  base = pathlib.Path(dl_manager.download_dir) / name
  base.mkdir(parents=True, exist_ok=True)
  with open(base / '.lock', 'wb') as lock:
    with contextlib.suppress(OSError):  # some file systems have no locks
      fcntl.flock(lock, fcntl.LOCK_EX)
    for url in urls:
      try:
        _download_archive(base, url)
      except Exception as error:  # zipfile, tarfile, urllib: many kinds
        raise ValueError(
          f'{name} could not be downloaded ({url}: {error}): {remedy}'
        ) from error
  return base


def _download_archive(base: pathlib.Path, url: str) -> None:
  """Downloads one archive and unpacks it, unless that was done before."""
  name = url.rsplit('/', 1)[-1]
  archive, done = base / name, base / f'.{name}.done'
  partial = base / '.unpacking'
  if done.exists():
    return
  shutil.rmtree(partial, ignore_errors=True)
  try:
    with open(archive, 'wb') as file:
      system.download(url, file, name)
    options: Any = {} if archive.suffix == '.zip' else {'filter': 'data'}
    shutil.unpack_archive(archive, partial, **options)
    for inner in sorted(partial.rglob('*.zip')):
      shutil.unpack_archive(inner, inner.parent)
      inner.unlink()
    for path in partial.rglob('*'):
      if not path.is_dir():
        target = base / path.relative_to(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    done.touch()
  finally:
    archive.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
