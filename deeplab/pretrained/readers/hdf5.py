"""Reads Keras' weight files: `.h5` of Keras 2 and 3, `.weights.h5`, `.keras`.

Names are unified to 'layer/variable': 'Conv1/kernel', 'bn_Conv1/moving_mean'.
Layers that Keras numbers by the order in which a process builds them are
renumbered to 'conv2d', 'conv2d_1', .. in their order.

HDF5 lets a file refer to others: by links, by raw data stored elsewhere, by
virtual data sets, by filters in libraries of their own. Keras writes none, and
a downloaded file could read any file of the machine into a "weight"; so
whatever is not in the file itself is refused.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import io
import math
import mmap
import os
import re
from typing import Any
import zipfile

import h5py
import numpy as np

from deeplab.pretrained.readers import limits

# Variables of Keras 3's layers, which its files store by number only.
_VARIABLE_NAMES = {
  'batch_normalization': ('gamma', 'beta', 'moving_mean', 'moving_variance'),
  'conv2d': ('kernel', 'bias'),
  'dense': ('kernel', 'bias'),
  'depthwise_conv2d': ('kernel', 'bias'),
  'separable_conv2d': ('depthwise_kernel', 'pointwise_kernel', 'bias'),
}


_SIGNATURE = b'\x89HDF\r\n\x1a\n'
_HEAP = b'GCOL\1'

# Deflate, shuffle, Fletcher's checksum, and LZF, which h5py brings.
_FILTERS = (1, 2, 3, 32000)
# The names in one attribute.
_MAX_NAME_BYTES = 1 << 30


def _check_links(file: h5py.File) -> None:
  """Checks that all that a file names is in the file.

  Raises:
    ValueError: it has a soft or external link.
  """
  groups: list[h5py.Group] = [file]
  seen = set()
  while groups:
    group = groups.pop()
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:  # hard links may form a circle
      continue
    seen.add(address)
    for name in group:
      if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(
          f'its {f"{group.name}/{name}".lstrip("/")!r} is a link to elsewhere'
        )
      if group.get(name, getclass=True) is h5py.Group:
        groups.append(group[name])


def _count_heap_bytes(content: bytes | mmap.mmap) -> int:
  """Returns the size of all texts of variable length in a file.

  They lie in collections of the global heap: 'GCOL', a version, three bytes,
  the size, and then objects with a header of 16 bytes each (file format
  specification, III.E).

  Raises:
    ValueError: a collection is damaged, which HDF5 would read for ever.
  """
  total, start = 0, content.find(_HEAP)
  while start >= 0:
    size = int.from_bytes(content[start + 8 : start + 16], 'little')
    end = start + size
    if end <= len(content):  # others are no collections, HDF5 rejects them
      total += size
      item = start + 16
      while item + 16 <= end:
        number = int.from_bytes(content[item : item + 2], 'little')
        length = int.from_bytes(content[item + 8 : item + 16], 'little')
        # The length of free space, number 0, includes the header.
        item += 16 + (length + 7) // 8 * 8 if number else length
        if item > end or length < (0 if number else 16):
          raise ValueError('its names are damaged')
    start = content.find(_HEAP, start + 4)
  return total


class _Reader:
  """Reads the names and numbers of a file, within bounds."""

  def __init__(self, content: bytes | mmap.mmap):
    self._heap_bytes = _count_heap_bytes(content)
    self._budget = limits.ByteBudget(len(content))

  def read_attribute(self, owner: h5py.Group, key: str) -> Any:
    """Returns the value of an attribute: a name, or an array of names.

    Raises:
      ValueError: its texts are too long.
    """
    attribute = h5py.h5a.open(owner.id, key.encode())
    count, text = math.prod(attribute.shape), None
    if count:  # an empty list is stored as numbers
      text = h5py.check_string_dtype(attribute.dtype)
      if text is None:
        raise ValueError(f'its attribute {key!r} is no text')
      # Texts of variable length are known only by their places in the heap,
      # and many names may share a long one.
      if count * (text.length or self._heap_bytes) > _MAX_NAME_BYTES:
        raise ValueError(f'its attribute {key!r} is too long')
    value = owner.attrs[key]
    if text is not None and text.length is None:
      self._budget.spend(sum(len(name) for name in np.ravel(value).tolist()))
    return value

  def read_names(self, group: h5py.Group, key: str) -> list[str]:
    """Returns a list of names, joining lists split into key0, key1, ..."""
    keys = [key] if key in group.attrs else []
    if not keys:
      while f'{key}{len(keys)}' in group.attrs:
        keys.append(f'{key}{len(keys)}')
    values = [
      name for part in keys for name in self.read_attribute(group, part)
    ]
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]

  def read_dataset(self, dataset: h5py.Dataset) -> np.ndarray:
    """Returns the numbers of a data set that are stored in the file itself.

    Raises:
      ValueError: they are stored elsewhere, are no numbers or too many.
    """
    name = dataset.name.lstrip('/')
    if not isinstance(dataset, h5py.Dataset):
      raise ValueError(f'its {name!r} is no data set')
    plist = dataset.id.get_create_plist()
    if plist.get_external_count() or dataset.is_virtual:
      raise ValueError(f'its {name!r} is stored in other files')
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if not set(filters) <= set(_FILTERS):
      raise ValueError(f'its {name!r} needs the filters {filters}')
    if dataset.dtype.kind not in 'fiub' or dataset.shape is None:
      raise ValueError(f'its {name!r} holds no numbers')
    stored = limits.ByteBudget(dataset.id.get_storage_size())
    for budget in (stored, self._budget):
      budget.spend(math.prod(dataset.shape) * dataset.dtype.itemsize)
    return dataset[()]


def _iterate_keras2(
  root: h5py.Group, reader: _Reader
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, tensor) of a Keras 2 file: one group per layer."""
  for layer in reader.read_names(root, 'layer_names'):
    group = root[layer]
    names = [
      (
        name.removesuffix(':0').rpartition('/'),
        reader.read_dataset(group[name]),
      )
      for name in reader.read_names(group, 'weight_names')
    ]
    # A nested model is one group of many layers.
    nested = len({name[0] for name, _ in names}) > 1
    for (owner, _, variable), value in names:
      yield f'{owner if nested else layer}/{variable}', value


def _iterate_keras3(
  root: h5py.Group, reader: _Reader
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, tensor) of a Keras 3 file: layers by class, then number."""
  groups: list[tuple[str, h5py.Group]] = []
  root.visititems(
    lambda path, item: (
      groups.append((path, item))
      if path.endswith('/vars') and len(item) and path.startswith('layers/')
      else None
    )
  )
  for path, group in groups:
    kind = re.sub(r'_\d+$', '', path.split('/')[-2])
    if 'name' not in group.attrs:
      raise ValueError(
        'its layers have no names, since older releases of Keras 3 leave them '
        'out; save it as .h5 there'
      )
    layer = reader.read_attribute(group, 'name')
    variables: Sequence[str] = _VARIABLE_NAMES.get(kind, ())
    for key, value in group.items():
      number = int(key)
      named = number < len(variables)
      variable = variables[number] if named else f'{kind}_{number}'
      yield f'{layer}/{variable}', reader.read_dataset(value)


def renumber_layers(layers: Iterable[str]) -> dict[str, str]:
  """Returns the new names of layers that Keras numbers, by their old names."""
  kinds: dict[str, list[tuple[int, str]]] = {}
  for layer in set(layers):
    match = re.fullmatch(r'(conv2d|batch_normalization)(?:_(\d+))?', layer)
    if match:
      kinds.setdefault(match[1], []).append((int(match[2] or 0), layer))
  return {
    layer: f'{kind}_{i}' if i else kind
    for kind, numbered in kinds.items()
    for i, (_, layer) in enumerate(sorted(numbered))
  }


def _read_h5_file(
  file: Any, content: bytes | mmap.mmap
) -> dict[str, np.ndarray]:
  """Returns the tensors of an .h5 file, given open or by its path."""
  tensors: dict[str, np.ndarray] = {}
  with h5py.File(file, 'r') as f:
    _check_links(f)
    reader = _Reader(content)
    root = f.get('model_weights', f)
    legacy = 'layer_names' in root.attrs or 'layer_names0' in root.attrs
    if not legacy and 'layers' not in root:
      raise ValueError('it holds no weights of Keras layers')
    iterate = _iterate_keras2 if legacy else _iterate_keras3
    for name, value in iterate(root, reader):
      if name in tensors:
        raise ValueError(f'two of its tensors are {name!r}')
      tensors[name] = value
  renamed = {}
  numbers = renumber_layers(name.rpartition('/')[0] for name in tensors)
  for name, value in tensors.items():
    layer, _, variable = name.rpartition('/')
    # Keras 2's name of depthwise kernels; separable layers have two kernels.
    if variable == 'depthwise_kernel' and (
      f'{layer}/pointwise_kernel' not in tensors
    ):
      variable = 'kernel'
    renamed[f'{numbers.get(layer, layer)}/{variable}'] = value
  return renamed


def check_end(path: str) -> None:
  """Checks that an .h5 file ends where it says.

  HDF5 reads a file that something was appended to; one that was downloaded
  without a digest is then not what was published.

  Raises:
    ValueError: it is longer.
  """
  with open(path, 'rb') as f:
    header = f.read(52)
  # The address after the last byte, in the superblock of versions 0, 1 or 2, 3
  # (file format specification, II.A), with addresses of 8 bytes.
  place = {0: 40, 1: 44, 2: 28, 3: 28}.get(header[8], 0)
  if header[:8] != _SIGNATURE or not place:
    return
  end = int.from_bytes(header[place : place + 8], 'little')
  size = os.path.getsize(path)
  if size > end:
    raise ValueError(f'{size - end} bytes follow its end')


def read_hdf5(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by 'layer/variable'.

  Raises:
    ValueError: the file is damaged, has none of these formats, refers to other
      files, or takes far more memory than its size.
  """
  size = os.path.getsize(path)
  with open(path, 'rb') as f:
    archive = f.read(2) == b'PK'
  try:
    if archive:
      with zipfile.ZipFile(path) as archive_file:
        limits.check_archive(archive_file, size)
        content = archive_file.read('model.weights.h5')
      return _read_h5_file(io.BytesIO(content), content)
    if not size:
      raise ValueError('it is empty')
    with (
      open(path, 'rb') as f,
      mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
      return _read_h5_file(path, mapped)
  # A damaged file may raise anything, in zipfile and in h5py.
  except Exception as e:
    raise ValueError(
      f'{path} is not a whole weight file of Keras ({e}); download it '
      'again, or save it again in Keras'
    ) from e
