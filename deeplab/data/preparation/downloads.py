"""Downloads of official archives."""

from collections.abc import Iterable
import contextlib
import fcntl
import gzip
import json
import os
import pathlib
import shutil
from typing import Any

from deeplab import system

_CHUNK_BYTES = 1 << 20
_TAR_END_BYTES = 1024


def download_and_unpack(
  dl_manager: Any, urls: Iterable[str], name: str, remedy: str
) -> pathlib.Path:
  """Downloads archives and unpacks them into one folder, each once.

  The unpacked files are kept, so that a second call needs no network; an
  archive of which files are missing or changed is downloaded again. An archive
  that arrives incomplete or damaged is deleted. ZIP files inside an archive are
  unpacked beside themselves.

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


def _is_unpacked(base: pathlib.Path, done: pathlib.Path) -> bool:
  """Returns True if all files of an archive are there, with their sizes."""
  try:
    sizes = json.loads(done.read_text('utf-8'))
    return bool(sizes) and all(
      (base / name).stat().st_size == size for name, size in sizes.items()
    )
  except FileNotFoundError:
    return False
  except (AttributeError, TypeError, ValueError):  # not such a list
    return False


def _check_tar_end(archive: pathlib.Path) -> None:
  """Checks that a .tar, .tar.gz or .tgz file is whole.

  `tarfile` reads neither the checksum at the end of a .gz file nor the two
  blocks of zeros at the end of a .tar file, which may be cut between members.

  Raises:
    ValueError: it is cut off.
    OSError: its checksum differs.
  """
  end = b''
  with (
    gzip.open(archive)
    if archive.suffix in ('.gz', '.tgz')
    else open(archive, 'rb') as file
  ):
    while block := file.read(_CHUNK_BYTES):
      end = (end + block)[-_TAR_END_BYTES:]
  if end != bytes(_TAR_END_BYTES):
    raise ValueError('the archive is cut off')


def _download_archive(base: pathlib.Path, url: str) -> None:
  """Downloads one archive and unpacks it, unless that was done before."""
  name = url.rsplit('/', 1)[-1]
  archive, done = base / name, base / f'.{name}.done'
  partial = base / '.unpacking'
  if _is_unpacked(base, done):
    return
  done.unlink(missing_ok=True)
  shutil.rmtree(partial, ignore_errors=True)
  try:
    with open(archive, 'wb') as file:
      system.download(url, file, name)
    options: Any = {} if archive.suffix == '.zip' else {'filter': 'data'}
    shutil.unpack_archive(archive, partial, **options)
    if archive.suffix != '.zip':
      _check_tar_end(archive)
    for inner in sorted(partial.rglob('*.zip')):
      shutil.unpack_archive(inner, inner.parent)
      inner.unlink()
    sizes = {}
    for path in sorted(partial.rglob('*')):
      if not path.is_dir():
        target = base / path.relative_to(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        sizes[str(target.relative_to(base))] = path.stat().st_size
        os.replace(path, target)
    if not sizes:
      raise ValueError('the archive is empty')
    system.write_json(done, sizes)
  finally:
    archive.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
