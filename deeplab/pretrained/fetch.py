"""Downloads published weight files into a cache and checks their digests."""

import hashlib
import os

from absl import logging

from deeplab import system
from deeplab.pretrained import published_weights
from deeplab.pretrained.readers import dispatch
from deeplab.pretrained.readers import hdf5

_CHUNK_BYTES = 1 << 20
# The largest published file has 240 MB.
_MAX_FILE_BYTES = 2 << 30


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


def _digest_fault(
  path: str, weights: published_weights.PublishedWeights
) -> str:
  """Returns how a file's digest differs from the published one; '' if not."""
  if not weights.digest:
    return ''
  kind, _, expected = weights.digest.partition(':')
  with open(path, 'rb') as f:
    digest = hashlib.file_digest(f, kind).hexdigest()
  if digest.startswith(expected):
    return ''
  return f'{kind} {digest}, expected {expected}...'


def check_digest(
  path: str, weights: published_weights.PublishedWeights
) -> None:
  """Checks a file against the published digest.

  Raises:
    ValueError: the digest differs.
  """
  if not weights.digest:
    logging.warning('%s: not verified, no digest was published', path)
  fault = _digest_fault(path, weights)
  if fault:
    raise ValueError(
      f'{path} is not the file that was published ({fault}); remove it and '
      f'download {weights.url} again'
    )


def _check_content(
  path: str, weights: published_weights.PublishedWeights
) -> None:
  """Checks that a file is the published one, by its digest or by reading it.

  Without a digest, a page of a proxy or a part of the file would be kept.

  Raises:
    ValueError: it is another file; the message is the reason.
  """
  fault = _digest_fault(path, weights)
  if fault:
    raise ValueError(fault)
  if not weights.digest:
    dispatch.read_tensors(path)
    hdf5.check_end(path)


def fetch_weights(weights: published_weights.PublishedWeights) -> str:
  """Returns the path of a published file, downloaded if it is not cached.

  A cached file that is not the published one is downloaded again.

  Raises:
    OSError: the file cannot be downloaded or written, or the address has
      another file.
  """
  path = cache_path(weights)
  if os.path.exists(path):
    try:
      _check_content(path, weights)
    except ValueError as e:
      logging.warning('%s is not the published file (%s)', path, e)
    else:
      return path
  # Each process writes a file of its own; all are equal, the last one stays.
  # Its suffix is that of the file, which chooses the reader.
  with system.write_atomically(path) as partial:
    try:
      with open(partial, 'wb') as f:
        system.download(weights.url, f, weights.filename, _MAX_FILE_BYTES)
      _check_content(partial, weights)
    except (OSError, ValueError) as e:
      reason = str(e)
      if isinstance(e, ValueError):  # 'PARTIAL is no ...; download it again'
        reason = reason.replace(partial, 'the answer').rsplit('; ', 1)[0]
      raise OSError(
        f'{weights.url} could not be downloaded ({reason}); download it '
        f'elsewhere and put it at {path}'
      ) from e
  if not weights.digest:
    logging.warning('%s: not verified, no digest was published', path)
  return path
