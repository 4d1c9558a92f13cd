"""Reads Keras' weight files: `.h5` of Keras 2 and 3, `.weights.h5`, `.keras`.

Names are unified to 'layer/variable': 'Conv1/kernel', 'bn_Conv1/moving_mean'.
Layers that Keras numbers by the order in which a process builds them are
renumbered to 'conv2d', 'conv2d_1', .. in their order.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import io
import re
from typing import Any
import zipfile

import h5py
import numpy as np

# Variables of Keras 3's layers, which its files store by number only.
_VARIABLE_NAMES = {
  'batch_normalization': ('gamma', 'beta', 'moving_mean', 'moving_variance'),
  'conv2d': ('kernel', 'bias'),
  'dense': ('kernel', 'bias'),
  'depthwise_conv2d': ('kernel', 'bias'),
  'separable_conv2d': ('depthwise_kernel', 'pointwise_kernel', 'bias'),
}


def _read_name_list(group: h5py.Group, key: str) -> list[str]:
  """Returns a list of names, joining lists split into key0, key1, ..."""
  values: list[Any] = []
  if key in group.attrs:
    values = list(group.attrs[key])
  else:
    while f'{key}{len(values)}' in group.attrs:
      values.append(group.attrs[f'{key}{len(values)}'])
    values = [name for part in values for name in part]
  return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _iterate_keras2(root: h5py.Group) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, tensor) of a Keras 2 file: one group per layer."""
  for layer in _read_name_list(root, 'layer_names'):
    group = root[layer]
    names = [
      (name.removesuffix(':0').rpartition('/'), group[name][()])
      for name in _read_name_list(group, 'weight_names')
    ]
    # A nested model is one group of many layers.
    nested = len({name[0] for name, _ in names}) > 1
    for (owner, _, variable), value in names:
      yield f'{owner if nested else layer}/{variable}', value


def _iterate_keras3(root: h5py.Group) -> Iterator[tuple[str, np.ndarray]]:
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
    variables: Sequence[str] = _VARIABLE_NAMES.get(kind, ())
    for key, value in group.items():
      number = int(key)
      named = number < len(variables)
      variable = variables[number] if named else f'{kind}_{number}'
      yield f'{group.attrs["name"]}/{variable}', value[()]


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


def _read_h5_file(file: Any) -> dict[str, np.ndarray]:
  """Returns the tensors of an .h5 file, given open or by its path."""
  tensors: dict[str, np.ndarray] = {}
  with h5py.File(file, 'r') as f:
    root = f.get('model_weights', f)
    legacy = 'layer_names' in root.attrs or 'layer_names0' in root.attrs
    if not legacy and 'layers' not in root:
      raise ValueError('it holds no weights of Keras layers')
    for name, value in (_iterate_keras2 if legacy else _iterate_keras3)(root):
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


def read_hdf5(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by 'layer/variable'.

  Raises:
    ValueError: the file is damaged or has none of these formats.
  """
  with open(path, 'rb') as f:
    archive = f.read(2) == b'PK'
  try:
    if not archive:
      return _read_h5_file(path)
    with zipfile.ZipFile(path) as archive_file:
      return _read_h5_file(io.BytesIO(archive_file.read('model.weights.h5')))
  except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as e:
    raise ValueError(
      f'{path} is not a whole weight file of Keras ({e}); download it again'
    ) from e
