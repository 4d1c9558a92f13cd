"""Preparations that can be killed: nothing of them stays, and none differs.

tfds prepares in a folder `incomplete.*` beside the one that it is to become,
and removes it again unless the process is killed. Who prepares holds a lock on
the folder of the two, which the system takes from a dead process, so that who
comes next can tell what nobody is at work on.

The same examples make the same files. tfds alone does not see to that: the
order of an example's features in its bytes changes from process to process.
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
  """tfds' own, with features in the order of their names."""

  def serialize_example(self, example: Any) -> bytes:
    return self.get_tf_example(example).SerializeToString(deterministic=True)


@contextlib.contextmanager
def deterministic_serialization() -> Iterator[None]:
  """Makes tfds write the same bytes for the same examples."""
  original = example_serializer.ExampleSerializer
  example_serializer.ExampleSerializer = _DeterministicSerializer
  try:
    yield
  finally:
    example_serializer.ExampleSerializer = original


@contextlib.contextmanager
def suppress_stdout() -> Iterator[None]:
  """Drops what tfds prints, which speaks of a download of unknown size."""
  with contextlib.redirect_stdout(io.StringIO()):
    yield


@contextlib.contextmanager
def lock_and_clean(folder: pathlib.Path) -> Iterator[None]:
  """Holds a share of the lock on a folder, which is made if need be.

  What dead processes left there, and in the folders beside it (those of other
  splits, and of files that were edited since), is removed first. Where others
  are at work, or the file system has no locks, it stays.

  Args:
    folder: where the prepared folders of one split of one data set are.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for place in sorted(folder.parent.iterdir()):
    if place != folder and place.is_dir():
      with (
        contextlib.suppress(PermissionError),
        _open_folder(place) as descriptor,
      ):
        _remove_incomplete(place, descriptor)
  with _open_folder(folder) as descriptor:
    _remove_incomplete(folder, descriptor)
    with contextlib.suppress(OSError):
      fcntl.flock(descriptor, fcntl.LOCK_SH)
    yield


@contextlib.contextmanager
def _open_folder(folder: pathlib.Path) -> Iterator[int]:
  """Opens a folder for the lock on it, which ends with it."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


def _remove_incomplete(folder: pathlib.Path, descriptor: int) -> None:
  """Removes half-made data, if nobody else holds the lock."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    return
  for path in folder.glob('incomplete.*'):
    shutil.rmtree(path, ignore_errors=True)
