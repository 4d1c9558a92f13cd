"""Downloads published weight files into a cache and checks their digests."""

import hashlib
import os
import tempfile

from absl import logging

from deeplab import system
from deeplab.pretrained import published_weights

_CHUNK_BYTES = 1 << 20


def cache_path(weights: published_weights.PublishedWeights) -> str:
  """Returns the path of a published file in the cache.

  The cache is the folder `weights` below $DEEPLAB_CACHE, by default
  ~/.cache/deeplab.
  """
  default = os.path.join(os.path.expanduser('~'), '.cache', 'deeplab')
  folder = os.environ.get('DEEPLAB_CACHE') or default
  return os.path.join(folder, 'weights', weights.filename)


def sha256(*paths: str) -> str:
  """Returns the hexadecimal SHA-256 of the concatenation of files."""
  digest = hashlib.sha256()
  for path in paths:
    with open(path, 'rb') as f:
      while block := f.read(_CHUNK_BYTES):
        digest.update(block)
  return digest.hexdigest()


def check_digest(
  path: str, weights: published_weights.PublishedWeights
) -> None:
  """Checks a file against the published digest.

  Raises:
    ValueError: the digest differs.
  """
  if not weights.digest:
    logging.warning('%s: not verified, no digest was published', path)
    return
  kind, _, expected = weights.digest.partition(':')
  with open(path, 'rb') as f:
    digest = hashlib.file_digest(f, kind).hexdigest()
  if not digest.startswith(expected):
    raise ValueError(
      f'{path} is not the file that was published ({kind} {digest}, expected '
      f'{expected}...); remove it and download {weights.url} again'
    )


def fetch_weights(weights: published_weights.PublishedWeights) -> str:
  """Returns the path of a published file, downloaded if it is not cached.

  Raises:
    OSError: the file cannot be downloaded or written.
    ValueError: its digest is not the published one.
  """
  path = cache_path(weights)
  if os.path.exists(path):
    check_digest(path, weights)
    return path
  os.makedirs(os.path.dirname(path), exist_ok=True)
  # Each process writes a file of its own; all are equal, the last one stays.
  handle, partial = tempfile.mkstemp(
    dir=os.path.dirname(path), prefix=f'{weights.filename}.'
  )
  try:
    with os.fdopen(handle, 'wb') as f:
      _download(weights.url, f, path)
    check_digest(partial, weights)
    os.replace(partial, path)
  finally:
    if os.path.exists(partial):
      os.remove(partial)
  return path


def _download(url: str, f, path: str) -> None:
  """Downloads an address into an open file.

  Raises:
    OSError: the download failed; the message says where to put the file.
  """
  try:
    system.download(url, f, os.path.basename(path))
  except OSError as e:
    raise OSError(
      f'{url} could not be downloaded ({e}); download it elsewhere and put it '
      f'at {path}'
    ) from e
