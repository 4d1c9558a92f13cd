"""Files that commands write, and protection of those that they did not make.

A folder that a command has written to holds a manifest, `.deeplab.jsonl`: one
line for each file, with its SHA-256. A file that the manifest lacks, or whose
content has changed since, is the user's: it is replaced only if the user says
so (`--overwrite`). An input of the command is never replaced.

The folders of runs and sweeps are not checked in this way. Their config.json or
sweep.json says that they are the project's.
"""

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import functools
import hashlib
import json
import os
from typing import Any

from deeplab import system

MANIFEST = '.deeplab.jsonl'


def hash_file(path: str) -> str:
  """Returns the SHA-256 of a file's content, in hexadecimal digits."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def read_manifest(folder: str) -> dict[str, set[str]]:
  """Reads which files the project has written to a folder.

  Lines that are damaged are skipped: their files count as the user's.

  Args:
    folder: the folder; it need not exist.

  Returns:
    SHA-256 digests by file name, relative to the folder and with slashes. A
    file has more than one if it was written several times.
  """
  known: dict[str, set[str]] = {}
  with contextlib.suppress(FileNotFoundError, NotADirectoryError):
    path = os.path.join(folder, MANIFEST)
    with open(path, encoding='utf-8', errors='replace') as f:
      for line in f:
        with contextlib.suppress(ValueError, TypeError, KeyError):
          entry = json.loads(line)
          known.setdefault(str(entry['file']), set()).add(entry['sha256'])
  return known


def format_entry(name: str, digest: str) -> str:
  """Returns the line of a file in a manifest."""
  return json.dumps({'file': name, 'sha256': digest}) + '\n'


def check_not_inside(
  folder: str, inputs: Iterable[str | os.PathLike], flag: str
) -> None:
  """Refuses a folder to replace that is an input or holds one.

  Args:
    folder: the folder that a command replaces as a whole.
    inputs: files and folders that it reads.
    flag: the flag that names the folder, for the message.

  Raises:
    ValueError: an input is the folder, or lies in it.
  """
  replaced = os.path.realpath(folder)
  for path in inputs:
    if os.path.commonpath([replaced, os.path.realpath(path)]) == replaced:
      raise ValueError(
        f'{flag}={folder} would replace {os.fspath(path)}, which the command '
        f'reads: choose another {flag}'
      )


class OutputFiles:
  """The files that a command writes to one folder.

  Attributes:
    folder: the folder; it is created with the first file.
    known: digests by name of the files that the project has written there.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    flag: str = '--output',
    inputs: Iterable[str | os.PathLike] = (),
    overwrite: bool = False,
  ):
    """Reads the manifest of the folder.

    Args:
      folder: to write to; it need not exist.
      flag: the flag that names it, for messages.
      inputs: files that the command reads and must not replace.
      overwrite: files that the project did not make may be replaced.
    """
    self.folder = os.fspath(folder) or '.'
    self.known = read_manifest(self.folder)
    self._flag, self._overwrite, self._inputs = flag, overwrite, inputs

  @functools.cached_property
  def _input_identities(self) -> set[tuple[int, int]]:
    return set(filter(None, map(_identity, self._inputs)))

  def check(self, names: Collection[str]) -> None:
    """Checks that files may be written.

    Commands call this for all of their files before they start to work.

    Args:
      names: names in the folder, with slashes.

    Raises:
      ValueError: a file is an input, a folder, or not of the project.
    """
    if os.path.lexists(self.folder) and not os.path.isdir(self.folder):
      raise ValueError(f'{self._flag}={self.folder} is a file: name a folder')
    foreign = [name for name in names if self._is_foreign(name)]
    if foreign:
      more = f' (and {len(foreign) - 1} more)' if len(foreign) > 1 else ''
      raise ValueError(
        f'{os.path.join(self.folder, foreign[0])}{more} exists, and this '
        'command did not write it, or it was changed since: choose another '
        f'{self._flag}, or pass --overwrite to replace it'
      )

  def _is_foreign(self, name: str) -> bool:
    """Returns True for an existing file that must not be replaced.

    Raises:
      ValueError: the file is an input or a folder.
    """
    path = os.path.join(self.folder, name)
    self._check_parents(name)
    if not os.path.lexists(path):
      return False
    if _identity(path) in self._input_identities:
      raise ValueError(
        f'{path} is an input of this command, which would replace it: choose '
        f'another {self._flag}'
      )
    if os.path.isdir(path):
      raise ValueError(
        f'{path} is a folder, where the command writes a file: choose another '
        f'{self._flag}'
      )
    if self._overwrite:
      return False
    return not self.is_written(name)

  def _check_parents(self, name: str) -> None:
    """Raises ValueError if a folder that `name` needs is a file."""
    path = self.folder
    for part in name.split('/')[:-1]:
      path = os.path.join(path, part)
      if os.path.lexists(path) and not os.path.isdir(path):
        raise ValueError(
          f'{path} is a file, where the command makes a folder: choose another '
          f'{self._flag}'
        )

  def is_written(self, name: str) -> bool:
    """Returns True for an existing file as the project has written it."""
    path = os.path.join(self.folder, name)
    digests = self.known.get(name, set())
    return bool(digests) and os.path.isfile(path) and hash_file(path) in digests

  @contextlib.contextmanager
  def replace(self, name: str) -> Iterator[str]:
    """Yields a temporary path, whose file becomes `name` at the end.

    The manifest lists the file before it appears.

    Args:
      name: name in the folder, with slashes.

    Raises:
      ValueError: the file is an input, a folder, or not of the project.
      OSError: it cannot be written.
    """
    self.check([name])
    path = os.path.join(self.folder, name)
    with system.write_atomically(path) as temporary:
      try:
        yield temporary
      except OSError as error:
        if temporary not in str(error):
          raise
        message = str(error).replace(temporary, path)
        raise OSError(message) from error
      self._record(name, hash_file(temporary))

  def _record(self, name: str, digest: str) -> None:
    """Appends a file to the manifest, unless it is there."""
    digests = self.known.setdefault(name, set())
    if digest not in digests:
      path = os.path.join(self.folder, MANIFEST)
      with open(path, 'ab+') as f:
        # On a full disk half a line may have been written, which ends here.
        f.seek(max(f.tell() - 1, 0))
        start = b'' if f.read(1) in (b'', b'\n') else b'\n'
        f.write(start + format_entry(name, digest).encode())
      digests.add(digest)

  def write_text(self, name: str, content: str) -> None:
    """Writes a text file, as `replace` does."""
    with self.replace(name) as path:
      system.write_text(path, content)

  def write_json(self, name: str, value: Any) -> None:
    """Writes a file of strict JSON, as `replace` does."""
    with self.replace(name) as path:
      system.write_json(path, value)


def open_output_file(
  path: str | os.PathLike,
  *,
  flag: str = '--output',
  inputs: Iterable[str | os.PathLike] = (),
  overwrite: bool = False,
) -> tuple[OutputFiles, str]:
  """Prepares a command that writes a single file.

  Args:
    path: the file.
    flag: the flag that names it, for messages.
    inputs: files that the command reads and must not replace.
    overwrite: a file that the project did not make may be replaced.

  Returns:
    The files of its folder, and its name among them.

  Raises:
    ValueError: the file is an input, a folder, or not of the project.
  """
  folder, name = os.path.split(os.path.expanduser(path))
  files = OutputFiles(folder, flag=flag, inputs=inputs, overwrite=overwrite)
  files.check([name])
  return files, name


def _identity(path: str | os.PathLike) -> tuple[int, int] | None:
  """Returns the device and inode of a file; None for an absent file.

  Links, and names in other letters on file systems that ignore case, are the
  same file.
  """
  try:
    status = os.stat(path)
  except OSError:
    return None
  return status.st_dev, status.st_ino
