"""The types of a weight system, and the naming schemes that several share.

A weight system (torchvision, Keras, ...) has one `PartMapping` for each of our
encoder classes, and for each head that it publishes weights of. A mapping is a
function from our paths to names of the file; where the system has no
counterpart of a module the reference is `NO_TENSOR`, which no file holds, so
that the merge reports it.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import re
from typing import Any
from typing import NamedTuple

import flax.linen as nn

from deeplab.pretrained import merge

PyTree = Any
TensorRefs = dict[str, merge.TensorRef]

# Mean and std of RGB in 0..255, as in config.data.
Normalization = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET_NORMALIZATION: Normalization = (
  (123.675, 116.28, 103.53),
  (58.395, 57.12, 57.375),
)
SIGNED_NORMALIZATION: Normalization = (
  (127.5, 127.5, 127.5),
  (127.5, 127.5, 127.5),
)  # -1..1
# Caffe: BGR minus its mean, not scaled. TF-slim's ResNets: RGB minus its mean.
CAFFE_NORMALIZATION: Normalization = (
  (123.68, 116.779, 103.939),
  (1.0, 1.0, 1.0),
)
CENTERED_NORMALIZATION: Normalization = (
  (123.15, 115.9, 103.06),
  (1.0, 1.0, 1.0),
)

NO_TENSOR = merge.TensorRef('')

# Step counters of PyTorch's BatchNorm, which are not used.
BATCH_COUNTERS = r'.*\.num_batches_tracked'

# A function (module, norm) -> name in the file, None where there is none. The
# module is our path without 'encoder/', 'head/' or 'auxiliary/' and without
# 'conv' or 'norm/bn' at the end; `norm` is True for its BatchNorm.
ModuleNamer = Callable[[str, bool], str | None]

_TORCH_VARIABLES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
# Kernels that read a layer's input in its order, the one of its output last.
_READING_KERNELS = ('depthwise/kernel', 'pointwise/conv/kernel', 'conv/kernel')
_KERAS_VARIABLES = {
  'scale': 'gamma',
  'bias': 'beta',
  'mean': 'moving_mean',
  'var': 'moving_variance',
}


class PartMapping(NamedTuple):
  """The names of one encoder or head in a weight system.

  Attributes:
    tensor_refs: function from a network's variables to the `TensorRef` of each
      path of the part; `merge` uses it. Paths begin with the part's name.
    unused: regular expression for tensors of the file without a counterpart.
    fields: required fields of our class.
    normalization: `config.data.mean` and `std` of all weights that the system
      publishes of an encoder, or a function to them from our variables; None
      where they differ or each published entry has its own.
    rename: function from names of the file to the names in `tensor_refs`. That
      of the encoder is applied to the whole file.
    align: function that renames all tensors of a file at once, where the names
      alone are not enough; it runs before `rename`.
    bgr: the first convolution reads BGR.
  """

  tensor_refs: Callable[[PyTree], TensorRefs]
  unused: str = ''
  fields: Mapping[str, Any] = {}
  normalization: Normalization | Callable[[PyTree], Normalization] | None = None
  rename: Callable[[str], str] = str
  align: Callable[[merge.Tensors], merge.Tensors] = lambda tensors: tensors
  bgr: bool = False


# (H, W) of the maps that the layers of a file with a graph read, in execution
# order, by the layer's name; {} for files of weights alone.
LayerSizes = Mapping[str, tuple[int, int]]


class Candidate(NamedTuple):
  """A network that a file's names and shapes allow.

  Attributes:
    page: config page with its variant, 'configs/voc_mnv2.py:mobile', of the
      data set, the evaluation protocol and the network.
    model: fields of config.model that differ from the page's, by
      'encoder.alpha'; those of an encoder or head that is renamed start from
      its defaults.
    tag: text that names it in the file names of its training program, 'os16';
      ''. It decides between candidates that a file's tensors do not tell apart.
    is_default: the network that the training program builds by default, which
      is assumed where no name decides.
  """

  page: str
  model: Mapping[str, Any] = {}
  tag: str = ''
  is_default: bool = False


class WeightSystem(NamedTuple):
  """The mappings of one weight system.

  Attributes:
    encoders: mappings by our encoder classes; the first that fits is used.
    heads: mappings by our head classes, in a whole network's file.
    auxiliaries: mappings by the classes of auxiliary heads.
    segmenter_prefix: prefix of some names in a whole network's file, and of
      none in a classifier's.
    unused: regular expression for further tensors of a whole network's file, by
      their new names.
    batch_norms_folded: BatchNorms are folded into the convolutions of the file;
      `unfold_batch_norm` restores them.
    candidates: function from the tensors of a file, and the sizes of its maps,
      to the segmentation networks that it may belong to, the most likely first;
      none if the names are not those of the system.
    classifier: regular expression for the name of the last layer's bias, or of
      its kernel where it has none.
    classifier_axis: axis of that tensor whose length is the number of classes.
  """

  encoders: Mapping[type[nn.Module], PartMapping]
  heads: Mapping[type[nn.Module], PartMapping] = {}
  auxiliaries: Mapping[type[nn.Module], PartMapping] = {}
  segmenter_prefix: str = 'backbone.'
  unused: str = ''
  batch_norms_folded: bool = False
  candidates: Callable[[merge.Tensors, LayerSizes], list[Candidate]] = (
    lambda tensors, sizes: []
  )
  classifier: str = ''
  classifier_axis: int = 0


def count_numbered(tensors: merge.Tensors, pattern: str) -> int:
  """Counts the numbers that a group of a pattern takes in tensors' names.

  Args:
    tensors: the tensors of a file by name.
    pattern: regular expression for the start of a name, with one group.
  """
  matches = (re.match(pattern, name) for name in tensors)
  return len({match[1] for match in matches if match})


def find_mapping(
  parts: Mapping[type[nn.Module], PartMapping], module: Any
) -> PartMapping | None:
  """Returns the mapping of a module's class, None where there is none."""
  for cls, mapping in parts.items():
    if isinstance(module, cls):
      return mapping
  return None


def missing_tensor_refs(variables: PyTree, scope: str) -> TensorRefs:
  """Returns `NO_TENSOR` for all paths of a scope."""
  return {
    path: NO_TENSOR
    for path in merge.flatten_variables(variables)
    if path.startswith(f'{scope}/')
  }


def _split_path(path: str) -> tuple[str, bool, str]:
  """Returns (module, True for a BatchNorm, leaf) of a path."""
  module, _, leaf = path.rpartition('/')
  if module.endswith('/norm/bn'):
    return module.removesuffix('/norm/bn'), True, leaf
  return module.removesuffix('/conv'), False, leaf


def torch_tensor_refs(
  variables: PyTree, scope: str, modules: ModuleNamer
) -> TensorRefs:
  """Returns the tensor references of a network written for PyTorch.

  Args:
    variables: variables of our network.
    scope: 'encoder', 'head' or 'auxiliary'.
    modules: function to the names of its modules.
  """
  refs = {}
  for path in missing_tensor_refs(variables, scope):
    module, norm, leaf = _split_path(path.removeprefix(f'{scope}/'))
    name = modules(module, norm)
    layout = 'oihw' if leaf == 'kernel' else 'same'
    refs[path] = (
      NO_TENSOR
      if name is None
      else merge.TensorRef(f'{name}.{_TORCH_VARIABLES[leaf]}', layout)
    )
  return refs


def conv_layer_name(
  conv: str, bn: str, half: str, norm: bool, infix: str = ''
) -> str | None:
  """Returns the name of a layer that is a convolution or a pair of them.

  The pair is depthwise and 1x1, without a BatchNorm between the two.

  Args:
    conv: name of the convolution, or of the module of the pair.
    bn: name of the BatchNorm behind it.
    half: '', 'depthwise' or 'pointwise'.
    norm: True for the BatchNorm.
    infix: what stands between the pair's name and its numbers, '.body'.
  """
  if norm:
    return None if half == 'depthwise' else bn
  return conv if not half else f'{conv}{infix}.{int(half == "pointwise")}'


def roll_channels(
  refs: TensorRefs, variables: PyTree, layer: str, count: Callable[[int], int]
) -> TensorRefs:
  """Returns references whose one layer reads its input in another order.

  Args:
    refs: tensor references of a part.
    variables: variables of our network.
    layer: path of the layer, 'head/aspp/projection': a convolution, or a
      depthwise and a 1x1 one without a BatchNorm between the two.
    count: function from the layer's output channels to the channels that its
      input is rolled by.
  """
  flat = merge.flatten_variables(variables)
  paths = [
    path
    for path in (f'{layer}/{leaf}' for leaf in _READING_KERNELS)
    if path in refs
  ]
  channels = count(flat[paths[-1]].shape[-1]) if paths else 0
  return refs | {path: refs[path]._replace(roll=channels) for path in paths}


def torch_mapping(
  scope: str, modules: ModuleNamer, **fields: Any
) -> PartMapping:
  """Returns the mapping of a part written for PyTorch.

  Args:
    scope: 'encoder', 'head' or 'auxiliary'.
    modules: function to the names of its modules.
    **fields: further fields of `PartMapping`.
  """
  return PartMapping(
    functools.partial(torch_tensor_refs, scope=scope, modules=modules), **fields
  )


def varying_torch_mapping(
  modules: Callable[[PyTree], ModuleNamer], **fields: Any
) -> PartMapping:
  """Returns the mapping of an encoder whose names depend on its variables.

  Args:
    modules: function from our variables to the function that names modules.
    **fields: further fields of `PartMapping`.
  """
  return PartMapping(
    lambda variables: torch_tensor_refs(
      variables, 'encoder', modules(variables)
    ),
    **fields,
  )


def keras_tensor_refs(
  variables: PyTree, scope: str, modules: ModuleNamer
) -> TensorRefs:
  """Returns the tensor references of a network written for Keras.

  Layers whose path ends in 'depthwise' have depthwise kernels. A name with a
  slash is that of the variable itself.

  Args:
    variables: variables of our network.
    scope: 'encoder', 'head' or 'auxiliary'.
    modules: function to the names of its modules.
  """
  refs = {}
  for path in missing_tensor_refs(variables, scope):
    module, norm, leaf = _split_path(path.removeprefix(f'{scope}/'))
    name = modules(module, norm)
    depthwise = leaf == 'kernel' and module.endswith('depthwise')
    if name is None:
      refs[path] = NO_TENSOR
      continue
    if '/' not in name:
      name = f'{name}/{_KERAS_VARIABLES[leaf] if norm else leaf}'
    refs[path] = merge.TensorRef(name, 'hwim' if depthwise else 'same')
  return refs
