"""One checkpoint on disk: its items, its record, and digests of both.

    6/variables/, 6/ema/, 6/training/   the items, written by Orbax
    6/metrics/metrics                   {'miou': ...} where it was evaluated
    6/_CHECKPOINT_METADATA              JSON; "custom_metadata" is the record

The record holds the SHA-256 of every item. A bit that changes on disk gives
other weights without an error of the reader: the compressed arrays have no
checksum. Hashing takes about 0.7 s per GB of state, at a save and at a load.
Checkpoints of older versions have no digests, and are read unchecked.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import hashlib
import json
import math
import pathlib
import re
from typing import Any

from etils.epath import gpath
import jax
import numpy as np
import orbax.checkpoint as ocp

PyTree = Any
# Arrays of an item by their path in its tree.
Arrays = dict[tuple[str, ...], np.ndarray]

# Keys of the custom metadata. Those of older versions are the metadata itself;
# two keys, so that one that is damaged does not make it look like that.
_DIGESTS = 'digests'
_METADATA = 'metadata'
_RECORD = 'record'  # the digest of the record itself
_METRICS = 'metrics'


class DamagedError(ValueError):
  """A checkpoint is not as it was written."""


class LiteralPath(gpath.PosixGPath):
  """A path whose own characters are no pattern.

  Orbax merges the files of a checkpoint by `folder.glob(...)`. Below a folder
  such as `lr[1]`, etils' paths would find none of them, and the checkpoint
  could not be read.
  """

  def glob(self, pattern: str) -> Iterator['LiteralPath']:
    """Yields the paths below this one that match a pattern."""
    for path in pathlib.Path(str(self)).glob(pattern):
      yield self._new(path)


@dataclasses.dataclass(frozen=True)
class Record:
  """Facts that a checkpoint holds beside its arrays.

  Attributes:
    metadata: JSON values that were saved with it.
    miou: its mIoU, NaN if it was not evaluated.
    items: names of its items.
    digests: SHA-256 by item; {} for checkpoints of older versions.
  """

  metadata: dict[str, Any]
  miou: float
  items: frozenset[str]
  digests: dict[str, str]


def saved_steps(directory: str) -> list[int]:
  """Returns the steps of the complete checkpoints of a run, in order."""
  root = pathlib.Path(directory)
  if not root.is_dir():
    return []
  return sorted(
    int(path.name) for path in root.iterdir() if path.name.isdigit()
  )


def flatten(tree: PyTree) -> dict[tuple[str, ...], Any]:
  """Returns the leaves of a tree by path, equal for a tree that was read."""
  return ocp.tree.to_flat_dict(tree)


def _hash_arrays(arrays: Mapping[tuple[str, ...], Any]) -> str:
  """Returns the SHA-256 of the paths, types, shapes and values of arrays."""
  digest = hashlib.sha256()
  for path, leaf in sorted(arrays.items()):
    array = np.asarray(leaf)
    digest.update(f'{path} {array.dtype} {array.shape}\n'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def _hash_record(metadata: Any, scores: Any, digests: dict[str, str]) -> str:
  content = json.dumps([metadata, scores, digests], sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()


def add_digests(
  metadata: Mapping[str, Any],
  scores: Mapping[str, float],
  items: Mapping[str, PyTree],
) -> dict[str, Any]:
  """Returns metadata with the digests of a checkpoint to be written.

  Args:
    metadata: JSON values.
    scores: {'miou': ...} or {}.
    items: trees of arrays by name.
  """
  digests = {name: _hash_arrays(flatten(tree)) for name, tree in items.items()}
  # As JSON gives it back.
  plain = json.loads(json.dumps(metadata))
  digests[_RECORD] = _hash_record(plain, dict(scores), digests)
  return {_METADATA: plain, _DIGESTS: digests}


def read_record(folder: str) -> Record:
  """Reads what a checkpoint holds beside its arrays.

  Args:
    folder: of one checkpoint.

  Raises:
    DamagedError: a file is absent or changed.
  """
  root = pathlib.Path(folder)
  try:
    stored = json.loads((root / '_CHECKPOINT_METADATA').read_text('utf-8'))
    scores = json.loads((root / _METRICS / _METRICS).read_text('utf-8'))
    metadata = dict(stored['custom_metadata'] or {})
    items = frozenset(stored['item_handlers']) - {_METRICS}
    digests = {}
    if {_METADATA, _DIGESTS} & metadata.keys():
      digests, metadata = dict(metadata[_DIGESTS]), metadata[_METADATA]
    miou = float(scores.get('miou', math.nan))
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise _damaged(folder, error) from error
  if digests:
    own = digests.pop(_RECORD, None)
    if own != _hash_record(metadata, scores, digests):
      raise DamagedError('its metrics or metadata do not match their digest')
    items |= frozenset(digests)
  return Record(metadata, miou, items, digests)


def read_item(folder: str, name: str, record: Record) -> Arrays:
  """Reads the arrays of one item, and checks them against their digest.

  Args:
    folder: of one checkpoint.
    name: of the item.
    record: of the checkpoint.

  Raises:
    DamagedError: a file is absent or changed.
    OSError: the files may not be read.
  """
  path = LiteralPath(folder) / name
  try:
    with ocp.StandardCheckpointer() as reader:
      described = reader.metadata(path)
      tree = getattr(described.item_metadata, 'tree', described.item_metadata)
      arrays = flatten(
        reader.restore(
          path, jax.tree.map(lambda m: np.empty(m.shape, m.dtype), tree)
        )
      )
  except Exception as error:  # Orbax and TensorStore raise many kinds
    raise _damaged(str(path), error) from error
  if name in record.digests and _hash_arrays(arrays) != record.digests[name]:
    raise DamagedError(f'the arrays of {name} do not match their digest')
  return arrays


def read_items(folder: str) -> tuple[Record, dict[str, Arrays]]:
  """Reads and checks a whole checkpoint.

  Returns:
    (record, arrays of each item by their path)

  Raises:
    DamagedError: a file is absent or changed.
    OSError: the files may not be read.
  """
  record = read_record(folder)
  return record, {
    name: read_item(folder, name, record) for name in sorted(record.items)
  }


def _damaged(path: str, error: Exception) -> Exception:
  """Returns DamagedError, or OSError if files may be whole but unreadable."""
  if isinstance(error, PermissionError) or 'PERMISSION_DENIED' in str(error):
    return OSError(f'{path} cannot be read: {short_reason(error)}')
  if isinstance(error, FileNotFoundError):
    return DamagedError(f'{error.filename or path} is missing')
  return DamagedError(f'{path}: {short_reason(error)}')


def short_reason(error: Exception) -> str:
  """Returns the cause of an error of Orbax or TensorStore in one line.

  Their messages are chains of causes, the deepest last, with a specification
  of the array of some hundred characters.
  """
  if isinstance(error, OSError) and error.strerror:
    name = f': {error.filename}' if error.filename else ''
    return f'{error.strerror}{name}'
  text = str(error).strip().splitlines()[-1] if str(error) else repr(error)
  full = re.search(
    r'"(/[^"]+?)(?:\.__lock)?": [^":]*: ([^"\[\]]+) \[os_error_code', text
  )
  if full:
    return f'{full[2]}: {full[1]}'
  return text.partition(' [tensorstore_spec=')[0].partition(' [source ')[0]
