"""Archives from where their authors keep them."""

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

  A ZIP file in an archive is unpacked where it lies. What they hold stays, and
  a second call needs no network. What was cut off or is damaged does not stay.

  Args:
    dl_manager: tfds' download manager, which names the folder for downloads.
    urls: addresses of the archives.
    name: the data set's name.
    remedy: how to get it otherwise.

  Returns:
    The folder, which is as `config.data.root` would be.

  Raises:
    ValueError: no network, no such file there, or not the whole of it.
  """
  base = pathlib.Path(dl_manager.download_dir) / name
  base.mkdir(parents=True, exist_ok=True)
  with open(base / '.lock', 'wb') as lock:
    with contextlib.suppress(OSError):  # a file system without locks
      fcntl.flock(lock, fcntl.LOCK_EX)
    for url in urls:
      try:
        _download_archive(base, url)
      except Exception as error:  # whatever the layers of archives raise
        raise ValueError(
          f'{name} could not be downloaded ({url}: {error}): {remedy}'
        ) from error
  return base


def _download_archive(base: pathlib.Path, url: str) -> None:
  """Adds what the archive at an address holds to a folder, if it is not yet."""
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
