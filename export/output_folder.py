"""The folder of an export, which appears complete or not at all."""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import ctypes
import os
import shutil
import sys

from deeplab import system
from deeplab.files import output_files

# Of renameat2 (Linux) and renameatx_np (macOS).
_AT_FDCWD = {'linux': -100, 'darwin': -2}
_EXCHANGE_FLAG = 2


@contextlib.contextmanager
def write_atomically(
  output: str,
  *,
  inputs: Iterable[str] = (),
  planned: Iterable[str] = (),
  overwrite: bool = False,
) -> Iterator[str]:
  """Yields a temporary folder that becomes `output` on success.

  It lies beside `output`, so that the rename does not cross file systems. An
  earlier export at `output` is replaced in one step (`exchange`), so that one
  complete folder has the name at any time. Files that no export has written are
  kept: they are in the new folder, too.

  Args:
    output: path of the export.
    inputs: files and folders that the command reads.
    planned: names of the files to write, of which the user may have one; files
      that are not among them are checked at the end.
    overwrite: files that the export did not write may be replaced.

  Raises:
    ValueError: `output` exists and holds no earlier export; it is an input or
      holds one; or a file of the user would be replaced.
  """
  inputs = list(inputs)
  output_files.check_not_inside(output, inputs, '--output')
  output = os.path.realpath(output)
  if os.path.exists(output) and not (
    os.path.isdir(output)
    and (not os.listdir(output) or 'report.json' in os.listdir(output))
  ):
    raise ValueError(
      f'{output} exists and holds no earlier export: pass another --output'
    )
  earlier = output_files.OutputFiles(output, overwrite=overwrite)
  # Changed files, such as an edited C example, would be replaced, too.
  earlier.check({*planned, *earlier.known})
  with system.partial_folder(output) as folder:
    yield folder
    written = sorted(_file_names(folder))
    earlier.check(written)
    _write_manifest(folder, written)
    if not os.path.exists(output):
      os.rename(folder, output)
      return
    _keep_files_of_user(earlier, folder)
    exchange(folder, output)


def _file_names(folder: str) -> Iterator[str]:
  """Yields the names of all files in a folder, with slashes.

  Links to folders count as files.
  """
  for root, folders, files in os.walk(folder):
    links = [x for x in folders if os.path.islink(os.path.join(root, x))]
    for name in (*files, *links):
      path = os.path.relpath(os.path.join(root, name), folder)
      yield path.replace(os.sep, '/')


def _write_manifest(folder: str, names: Iterable[str]) -> None:
  """Writes which files an export has made."""
  path = os.path.join(folder, output_files.MANIFEST)
  with open(path, 'w', encoding='utf-8') as f:
    f.writelines(
      output_files.format_entry(
        name, output_files.hash_file(os.path.join(folder, name))
      )
      for name in names
    )


def _keep_files_of_user(earlier: output_files.OutputFiles, folder: str) -> None:
  """Links the files that no export has written into the new folder.

  Those that the new export has, too, are replaced: --overwrite was given.
  """
  for name in _file_names(earlier.folder):
    source, target = (os.path.join(x, name) for x in (earlier.folder, folder))
    if os.path.lexists(target) or earlier.is_written(name):
      continue
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
      os.link(source, target, follow_symlinks=False)
    except OSError:  # some file systems have no links
      shutil.copy2(source, target, follow_symlinks=False)


def exchange(first: str, second: str) -> None:
  """Exchanges two folders of one file system in one step.

  Where the system cannot, it takes renames, between which nothing is under the
  name of `second`; if they fail, it is put back.

  Args:
    first: path of a folder.
    second: path of a folder.

  Raises:
    OSError: a folder cannot be renamed.
  """
  if _exchange_at_once(first, second):
    return
  aside = f'{first}.old'
  os.rename(second, aside)
  try:
    os.rename(first, second)
  except OSError:
    os.rename(aside, second)
    raise
  os.rename(aside, first)


def _exchange_at_once(first: str, second: str) -> bool:
  """Exchanges two paths by a system call; False where there is none."""
  name = {'linux': 'renameat2', 'darwin': 'renameatx_np'}.get(sys.platform)
  function = getattr(ctypes.CDLL(None), name, None) if name else None
  if function is None:
    return False
  here = _AT_FDCWD[sys.platform]
  status = function(
    ctypes.c_int(here),
    ctypes.c_char_p(os.fsencode(first)),
    ctypes.c_int(here),
    ctypes.c_char_p(os.fsencode(second)),
    ctypes.c_uint(_EXCHANGE_FLAG),
  )
  return status == 0


def file_bytes(path: str) -> int:
  """Returns the size of a file, or of all files in a folder, in bytes."""
  if os.path.isfile(path):
    return os.path.getsize(path)
  return sum(
    os.path.getsize(os.path.join(root, name))
    for root, _, names in os.walk(path)
    for name in names
  )
