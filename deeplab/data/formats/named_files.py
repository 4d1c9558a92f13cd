"""Finds files by the names that lists and annotation files give them.

Such files come from other machines: with backslashes, with absolute paths, and
with accents that are one character (NFC) or two (NFD, as macOS writes them).
"""

from collections.abc import Iterable
import os
import pathlib
import re
import unicodedata

from deeplab.data.preparation import errors

# Absolute paths of any system, addresses, and paths that leave the folder.
_FOREIGN = re.compile(r'^(?:[A-Za-z]:|/|\w+://)|(?:^|/)\.\.(?:/|$)')


def walk(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of a folder and of all folders below it, sorted.

  Symbolic links are followed, each folder once. Names that begin with a dot,
  and the folder that macOS adds to archives, are left out. Links to nothing are
  noted.
  """
  files: list[pathlib.Path] = []
  dead: list[pathlib.Path] = []
  seen = {os.path.realpath(folder)}
  for place, folders, names in os.walk(folder, followlinks=True):
    below = []
    for name in sorted(folders):
      real = os.path.realpath(os.path.join(place, name))
      if name[0] != '.' and name != '__MACOSX' and real not in seen:
        seen.add(real)
        below.append(name)
    folders[:] = below
    for name in names:
      if name[0] == '.':
        continue
      path = pathlib.Path(place, name)
      (files if path.is_file() else dead).append(path)
  if dead:
    errors.note(
      f'{folder}: {len(dead)} links to nothing left out, such as {min(dead)}'
    )
  return sorted(files)


def normalize(name: str) -> str:
  """Returns a name whose accents are one character each."""
  return unicodedata.normalize('NFC', name)


def find(
  name: str, folders: Iterable[pathlib.Path], source: pathlib.Path
) -> pathlib.Path | None:
  """Returns the file of a name, or None.

  Args:
    name: relative path with / or \\, or a path of another machine, of which as
      many of the last parts are used as there are in one of the folders.
    folders: folders that are searched, in this order.
    source: the file that has the name, for the note on paths of other machines.
  """
  folders = tuple(folders)
  slashed = name.replace('\\', '/')
  if not _FOREIGN.search(slashed):
    for candidate in (name, slashed):
      for folder in folders:
        path = _existing(folder, candidate)
        if path:
          return path
    return None
  # Nothing outside of the folders is looked at, whatever the name says.
  parts = [part for part in slashed.split('/') if part not in ('', '..')]
  for i in range(len(parts)):
    for folder in folders:
      path = _existing(folder, '/'.join(parts[i:]))
      if path:
        errors.note(
          f'{source}: names files by paths of another machine; files of the '
          f'same name in {folder} are taken'
        )
        return path
  return None


def _existing(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """Returns the file, in whichever form its accents are written."""
  for form in (name, *(unicodedata.normalize(f, name) for f in ('NFC', 'NFD'))):
    path = folder / form
    if os.path.isfile(path):  # False for a name that is too long
      return path
  return None
