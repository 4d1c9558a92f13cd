"""The folder of an export: there whole, or not at all."""

import contextlib
import os
import shutil
import tempfile


@contextlib.contextmanager
def write_atomically(output: str):
  """Yields a folder beside `output` that becomes it if nothing is raised.

  An earlier export there is replaced.

  Raises:
    ValueError: `output` is there and is no earlier export.
  """
  output = os.path.abspath(output)
  parent, name = os.path.split(output)
  if os.path.exists(output) and not (
    os.path.isdir(output)
    and (not os.listdir(output) or 'report.json' in os.listdir(output))
  ):
    raise ValueError(
      f'{output} is there and holds no earlier export: name another --output'
    )
  os.makedirs(parent, exist_ok=True)
  folder = tempfile.mkdtemp(prefix=f'.{name}.', dir=parent)
  try:
    os.chmod(folder, 0o777 & ~_current_umask())
    yield folder
    old = f'{folder}.old'
    if os.path.exists(output):
      os.rename(output, old)
    os.rename(folder, output)
    shutil.rmtree(old, ignore_errors=True)
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def _current_umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def file_bytes(path: str) -> int:
  """Returns the bytes of a file, or of all files in a folder."""
  if os.path.isfile(path):
    return os.path.getsize(path)
  return sum(
    os.path.getsize(os.path.join(root, name))
    for root, _, names in os.walk(path)
    for name in names
  )
