"""Published files, from the cache or from where they were published."""

import hashlib
import os
import tempfile

from absl import logging

from deeplab import system
from deeplab.pretrained import published_weights

_CHUNK_BYTES = 1 << 20


def cache_path(origin: published_weights.PublishedWeights) -> str:
  """Returns where the file of an origin lies, or would.

  In `weights` below $DEEPLAB_CACHE, by default ~/.cache/deeplab.
  """
  default = os.path.join(os.path.expanduser('~'), '.cache', 'deeplab')
  folder = os.environ.get('DEEPLAB_CACHE') or default
  return os.path.join(folder, 'weights', origin.filename)


def sha256(*paths: str) -> str:
  """Returns the hexadecimal SHA-256 of files, one behind the other."""
  digest = hashlib.sha256()
  for path in paths:
    with open(path, 'rb') as f:
      while block := f.read(_CHUNK_BYTES):
        digest.update(block)
  return digest.hexdigest()


def check_digest(path: str, origin: published_weights.PublishedWeights) -> None:
  """Refuses a file that is not the one that was published.

  Raises:
    ValueError: its digest is another.
  """
  if not origin.digest:
    logging.warning('%s: nobody published a digest to check it by', path)
    return
  kind, _, expected = origin.digest.partition(':')
  with open(path, 'rb') as f:
    digest = hashlib.file_digest(f, kind).hexdigest()
  if not digest.startswith(expected):
    raise ValueError(
      f'{path} is not the file that was published ({kind} {digest}, expected '
      f'{expected}...); remove it and fetch {origin.url} again'
    )


def fetch_weights(origin: published_weights.PublishedWeights) -> str:
  """Returns the path of an origin's file, fetched if it is not in the cache.

  Raises:
    OSError: it cannot be fetched or written.
    ValueError: it is not the file that was published.
  """
  path = cache_path(origin)
  if os.path.exists(path):
    check_digest(path, origin)
    return path
  os.makedirs(os.path.dirname(path), exist_ok=True)
  # Each process has a file of its own: the last to finish is as good as any.
  handle, partial = tempfile.mkstemp(
    dir=os.path.dirname(path), prefix=f'{origin.filename}.'
  )
  try:
    with os.fdopen(handle, 'wb') as f:
      _download(origin.url, f, path)
    check_digest(partial, origin)
    os.replace(partial, path)
  finally:
    if os.path.exists(partial):
      os.remove(partial)
  return path


def _download(url: str, f, path: str) -> None:
  """Copies what stands at an address.

  Raises:
    OSError: as `system.download`; it says where to put the file.
  """
  try:
    system.download(url, f, os.path.basename(path))
  except OSError as e:
    raise OSError(
      f'{url} could not be fetched ({e}); fetch it elsewhere and put it at '
      f'{path}'
    ) from e
