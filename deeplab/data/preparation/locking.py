"""Preparation that survives being killed, and always writes the same bytes.

tfds writes to a folder `incomplete.*` and renames it at the end. If the process
is killed, that folder is left behind. Each preparing process therefore holds a
shared lock on the parent folder; the operating system releases it when the
process dies. Whoever gets the exclusive lock knows that nobody is at work there
and removes the remains.

Equal examples give equal files. tfds alone does not ensure that: the order of
an example's features in its serialized bytes changes from process to process.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import io
import os
import pathlib
import shutil
from typing import Any

from tensorflow_datasets.core import example_serializer


class _DeterministicSerializer(example_serializer.ExampleSerializer):
  """Serializes features in the order of their names."""

  def serialize_example(self, example: Any) -> bytes:
    return self.get_tf_example(example).SerializeToString(deterministic=True)


@contextlib.contextmanager
def deterministic_serialization() -> Iterator[None]:
  """Patches tfds so that equal examples are written as equal bytes."""
  original = example_serializer.ExampleSerializer
  example_serializer.ExampleSerializer = _DeterministicSerializer
  try:
    yield
  finally:
    example_serializer.ExampleSerializer = original


@contextlib.contextmanager
def suppress_stdout() -> Iterator[None]:
  """Drops what tfds prints, a notice of a download of unknown size."""
  with contextlib.redirect_stdout(io.StringIO()):
    yield


@contextlib.contextmanager
def lock_and_clean(folder: pathlib.Path) -> Iterator[None]:
  """Holds a shared lock on a folder, after removing unfinished data.

  `incomplete.*` folders of dead processes are removed there and in the folders
  beside it, which belong to other splits and to earlier states of edited files.
  They stay where another process holds a lock, or where the file system has no
  locks.

  Args:
    folder: holds the prepared data of one split of one data set; it is made if
      it does not exist.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for sibling in sorted(folder.parent.iterdir()):
    if sibling != folder and sibling.is_dir():
      with (
        contextlib.suppress(PermissionError),
        _open_folder(sibling) as descriptor,
      ):
        _remove_incomplete(sibling, descriptor)
  with _open_folder(folder) as descriptor:
    _remove_incomplete(folder, descriptor)
    with contextlib.suppress(OSError):
      fcntl.flock(descriptor, fcntl.LOCK_SH)
    yield


@contextlib.contextmanager
def _open_folder(folder: pathlib.Path) -> Iterator[int]:
  """Opens a folder, to lock it; closing it releases the lock."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


def _remove_incomplete(folder: pathlib.Path, descriptor: int) -> None:
  """Removes unfinished data unless another process holds the lock."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    return
  for path in folder.glob('incomplete.*'):
    shutil.rmtree(path, ignore_errors=True)
