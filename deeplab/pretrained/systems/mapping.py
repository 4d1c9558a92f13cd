"""What the files of names share: how a system names what our networks have.

A system has one set of names for each of our encoder's classes, and for each
head that it publishes weights of. All of them are functions of our own paths;
where a system has no counterpart of a module the source is `NO_TENSOR`, which
no file holds, so that the merge lists it.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
from typing import Any
from typing import NamedTuple

import flax.linen as nn

from deeplab.pretrained import merge

PyTree = Any
TensorRefs = dict[str, merge.TensorRef]

# Mean and std, RGB in 0..255.
Normalization = tuple[tuple[float, ...], tuple[float, ...]]

# What images are before the network, (mean, std) of RGB in 0..255.
IMAGENET_NORMALIZATION: Normalization = (
  (123.675, 116.28, 103.53),
  (58.395, 57.12, 57.375),
)
SIGNED_NORMALIZATION: Normalization = (
  (127.5, 127.5, 127.5),
  (127.5, 127.5, 127.5),
)  # -1..1
# Caffe's: BGR less its mean, not scaled. TF-slim's ResNets: the same of RGB.
CAFFE_NORMALIZATION: Normalization = (
  (123.68, 116.779, 103.939),
  (1.0, 1.0, 1.0),
)
CENTERED_NORMALIZATION: Normalization = (
  (123.15, 115.9, 103.06),
  (1.0, 1.0, 1.0),
)

NO_TENSOR = merge.TensorRef('')

# What PyTorch's BatchNorm counts; nothing reads it.
BATCH_COUNTERS = r'.*\.num_batches_tracked'

# Maps (a module's path behind 'encoder/', 'head/' or 'auxiliary/', whether its
# BatchNorm is meant) to its name in the file, None where there is none. The
# path ends before 'conv' and 'norm/bn'.
ModuleNamer = Callable[[str, bool], str | None]

_TORCH_VARIABLES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_KERAS_VARIABLES = {
  'scale': 'gamma',
  'bias': 'beta',
  'mean': 'moving_mean',
  'var': 'moving_variance',
}


class PartMapping(NamedTuple):
  """The names of one encoder or head.

  Attributes:
    tensor_refs: the function from a network's variables; see `merge`. Its paths
      begin with the name of the part.
    unused: regular expression for tensors of the file without a counterpart.
    fields: fields of our class that its published weights were trained with.
    normalization: `config.data.mean` and `std` of all that the system publishes
      of an encoder, or a function to them from our variables; None where they
      differ, or where each origin says its own.
    rename: from names of the file to those that the sources have. That of the
      encoder holds for the whole file.
    align: the same for all tensors of a file, where one name does not say
      enough; before `rename`.
    bgr: the first convolution reads blue first.
  """

  tensor_refs: Callable[[PyTree], TensorRefs]
  unused: str = ''
  fields: Mapping[str, Any] = {}
  normalization: Normalization | Callable[[PyTree], Normalization] | None = None
  rename: Callable[[str], str] = str
  align: Callable[[merge.Tensors], merge.Tensors] = lambda tensors: tensors
  bgr: bool = False


class WeightSystem(NamedTuple):
  """How one system names all that we can import.

  Attributes:
    encoders: names by our class, of a classifier's file.
    heads: names by our class, of a whole network's file.
    auxiliaries: the same of an auxiliary head.
    segmenter_prefix: how some names begin in a whole network's file, and none
      in a classifier's.
    unused: regular expression for what a whole network's file may hold besides,
      by its renamed names.
    batch_norms_folded: the file has no BatchNorms, see the module
      `batch_norms_folded`.
  """

  encoders: Mapping[type[nn.Module], PartMapping]
  heads: Mapping[type[nn.Module], PartMapping] = {}
  auxiliaries: Mapping[type[nn.Module], PartMapping] = {}
  segmenter_prefix: str = 'backbone.'
  unused: str = ''
  batch_norms_folded: bool = False


def find_mapping(
  parts: Mapping[type[nn.Module], PartMapping], module: Any
) -> PartMapping | None:
  """Returns the part of a module's class, None where there is none."""
  for cls, part in parts.items():
    if isinstance(module, cls):
      return part
  return None


def missing_tensor_refs(variables: PyTree, scope: str) -> TensorRefs:
  """Returns sources that no file has, for all paths of a scope."""
  return {
    path: NO_TENSOR
    for path in merge.flatten_variables(variables)
    if path.startswith(f'{scope}/')
  }


def _split_path(path: str) -> tuple[str, bool, str]:
  """Returns (module, whether it is a BatchNorm, leaf) of a path."""
  module, _, leaf = path.rpartition('/')
  if module.endswith('/norm/bn'):
    return module.removesuffix('/norm/bn'), True, leaf
  return module.removesuffix('/conv'), False, leaf


def torch_tensor_refs(
  variables: PyTree, scope: str, modules: ModuleNamer
) -> TensorRefs:
  """Returns the sources of a network written for PyTorch.

  Args:
    variables: ours.
    scope: 'encoder', 'head' or 'auxiliary'.
    modules: names of its modules.
  """
  sources = {}
  for path in missing_tensor_refs(variables, scope):
    module, norm, leaf = _split_path(path.removeprefix(f'{scope}/'))
    name = modules(module, norm)
    layout = 'oihw' if leaf == 'kernel' else 'same'
    sources[path] = (
      NO_TENSOR
      if name is None
      else merge.TensorRef(f'{name}.{_TORCH_VARIABLES[leaf]}', layout)
    )
  return sources


def torch_mapping(
  scope: str, modules: ModuleNamer, **others: Any
) -> PartMapping:
  """Returns the mapping of a network written for PyTorch."""
  return PartMapping(
    functools.partial(torch_tensor_refs, scope=scope, modules=modules), **others
  )


def varying_torch_mapping(
  modules: Callable[[PyTree], ModuleNamer], **others: Any
) -> PartMapping:
  """Returns the part of an encoder whose names depend on the modules it has."""
  return PartMapping(
    lambda variables: torch_tensor_refs(
      variables, 'encoder', modules(variables)
    ),
    **others,
  )


def keras_tensor_refs(
  variables: PyTree, scope: str, modules: ModuleNamer
) -> TensorRefs:
  """Returns the tensor references of a network written for Keras.

  Arguments are those of `torch_tensor_refs`.

  Depthwise layers are those that our paths call so. A name with a slash is that
  of the variable itself.
  """
  sources = {}
  for path in missing_tensor_refs(variables, scope):
    module, norm, leaf = _split_path(path.removeprefix(f'{scope}/'))
    name = modules(module, norm)
    depthwise = leaf == 'kernel' and module.endswith('depthwise')
    if name is None:
      sources[path] = NO_TENSOR
      continue
    if '/' not in name:
      name = f'{name}/{_KERAS_VARIABLES[leaf] if norm else leaf}'
    sources[path] = merge.TensorRef(name, 'hwim' if depthwise else 'same')
  return sources
