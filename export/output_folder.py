"""The folder of an export, which appears complete or not at all."""

from collections.abc import Iterator
import contextlib
import os
import shutil
import tempfile


@contextlib.contextmanager
def write_atomically(output: str) -> Iterator[str]:
  """Yields a temporary folder that is renamed to `output` on success.

  It lies beside `output`, so that the rename does not cross file systems. An
  earlier export at `output` is replaced.

  Args:
    output: path of the export.

  Raises:
    ValueError: `output` exists and does not hold an earlier export.
  """
  output = os.path.abspath(output)
  parent, name = os.path.split(output)
  if os.path.exists(output) and not (
    os.path.isdir(output)
    and (not os.listdir(output) or 'report.json' in os.listdir(output))
  ):
    raise ValueError(
      f'{output} exists and holds no earlier export: pass another --output'
    )
  os.makedirs(parent, exist_ok=True)
  folder = tempfile.mkdtemp(prefix=f'.{name}.', dir=parent)
  try:
    # mkdtemp makes folders that only their owner can read.
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
  """Returns the size of a file, or of all files in a folder, in bytes."""
  if os.path.isfile(path):
    return os.path.getsize(path)
  return sum(
    os.path.getsize(os.path.join(root, name))
    for root, _, names in os.walk(path)
    for name in names
  )
