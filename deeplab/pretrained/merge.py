"""Copies the tensors of a file into the variables of a network, strictly.

A weight system maps names by a function `tensor_refs(variables) -> {path:
TensorRef}`. A path is that of one of our variables without its collection,
'encoder/stem/norm/bn/mean'; a `TensorRef` is the name of a tensor of the file
and the layout of its axes. The function must cover every variable of a part
(encoder or head): a variable that it omits would silently keep its random
initialization.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import re
from typing import Any
from typing import NamedTuple

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from deeplab.models import segmenter

PyTree = Any
Tensors = Mapping[str, np.ndarray]

# Lines that an error message shows of each kind of problem.
_MAX_SHOWN_LINES = 20


def _transpose_axes(*order: int) -> Callable[[np.ndarray], np.ndarray]:
  return lambda x: x.transpose(order)


# Functions from the axes of a file to ours: kernels [h, w, in, out], depthwise
# kernels [h, w, 1, out], and vectors.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'same': lambda x: x,
  # TensorFlow's depthwise kernels, m outputs of each input.
  'hwim': lambda x: _transpose_axes(0, 1, 2, 3)(x).reshape(*x.shape[:2], 1, -1),
  # A matrix for a 1x1 convolution.
  'io': lambda x: _transpose_axes(0, 1)(x)[None, None],
  # PyTorch's convolutions, grouped and depthwise ones among them.
  'oihw': _transpose_axes(2, 3, 1, 0),
  # TFLite's convolutions, and its depthwise ones.
  'ohwi': _transpose_axes(1, 2, 3, 0),
  '1hwo': _transpose_axes(1, 2, 0, 3),
}


class TensorRef(NamedTuple):
  """The tensor of a file that becomes one of our variables.

  Attributes:
    name: name of the tensor in the file.
    layout: one of `LAYOUTS`.
    roll: rolls the kernel's input channels by this many, a depthwise one's
      channels. Our ASPP concatenates (pooling, 1x1, rates) before its
      projection, others (1x1, rates, pooling).
  """

  name: str
  layout: str = 'same'
  roll: int = 0


def flatten_variables(variables: PyTree) -> dict[str, Any]:
  """Returns the leaves by their paths without the collection."""
  return {
    path.partition('/')[2]: leaf
    for path, leaf in traverse_util.flatten_dict(variables, sep='/').items()
  }


def adapt_input_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
  """Adapts the first kernel, trained on RGB, to another number of channels.

  One channel gets the sum over RGB: a grey image gives the same response as
  its RGB copy. Each channel after the third gets the mean over RGB, and all
  are scaled by 3 / channels: an image with the same value in all channels gives
  the same response as before.

  Args:
    kernel: [h, w, 3, out].
    channels: input channels of the network, 1 or 3 and more.

  Returns:
    [h, w, channels, out].

  Raises:
    ValueError: the kernel does not read RGB, or `channels` is 2.
  """
  if kernel.shape[2] != 3 or channels == 2 or channels < 1:
    raise ValueError(
      f'a first kernel of shape {kernel.shape} cannot be adapted to {channels} '
      'input channels: RGB weights fit 1 channel, or 3 and more'
    )
  if channels == 1:
    return kernel.sum(axis=2, keepdims=True)
  mean = kernel.mean(axis=2, keepdims=True)
  more = np.repeat(mean, channels - 3, axis=2)
  return np.concatenate([kernel, more], axis=2) * np.float32(3 / channels)


def first_kernel_edits(
  bgr: bool, model: Any, channels: int
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
  """Returns the edit of the first kernel, for `merge_tensors`.

  Args:
    bgr: the weights read BGR: the kernel's input channels are reversed.
    model: the `Segmenter`.
    channels: input channels of the network, to which RGB weights are adapted.

  Returns:
    A function from [h, w, 3, out] to [h, w, channels, out], by the kernel's
    path.
  """

  def edit(kernel):
    if bgr:
      kernel = kernel[:, :, ::-1]
    if kernel.shape[2] != channels:
      kernel = adapt_input_channels(kernel, channels)
    return kernel

  return {f'{segmenter.find_first_conv(model, channels)}/kernel': edit}


def _check_and_cast(name: str, tensor: np.ndarray) -> np.ndarray:
  """Returns the tensor as float32.

  Raises:
    ValueError: the tensor holds integers, or values that are not finite.
  """
  if not jnp.issubdtype(tensor.dtype, jnp.floating):
    raise ValueError(
      f'tensor {name!r} holds {tensor.dtype}, not floating-point weights; '
      'import a float file'
    )
  with np.errstate(over='ignore'):
    tensor = tensor.astype(np.float32)
  if not np.isfinite(tensor).all():
    raise ValueError(
      f'tensor {name!r} holds values that are not finite in float32; the file '
      'is damaged or comes from a run that diverged: use another'
    )
  return tensor


def _convert_layout(
  tensor_ref: TensorRef, tensor: np.ndarray
) -> np.ndarray | None:
  """Returns the tensor in our layout; None if its rank does not fit."""
  try:
    value = LAYOUTS[tensor_ref.layout](tensor)
  except ValueError:
    return None
  if not tensor_ref.roll:
    return value
  return np.roll(value, tensor_ref.roll, axis=2 if value.shape[2] > 1 else 3)


def _format_problems(title: str, lines: Iterable[str]) -> str:
  lines = sorted(lines)
  more = len(lines) - _MAX_SHOWN_LINES
  shown = [
    *lines[:_MAX_SHOWN_LINES],
    *([f'... and {more} more'] if more > 0 else []),
  ]
  return '\n'.join([f'{title} ({len(lines)}):', *(f'  {x}' for x in shown)])


def merge_tensors(
  variables: PyTree,
  tensors: Tensors,
  tensor_refs: Mapping[str, TensorRef],
  *,
  unused: str = '',
  skip: str = '',
  edits: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
) -> PyTree:
  """Returns a copy of the variables with the file's tensors merged in.

  Args:
    variables: nested {'params', 'batch_stats'}.
    tensors: the tensors of the file, by name.
    tensor_refs: the tensor of each variable, by our paths. Variables without an
      entry keep their values.
    unused: regular expression for the names of tensors that our networks do not
      use, such as the classifier of ImageNet's classes; '' matches none. This
      and `skip` match whole names, 'head/.*'.
    skip: regular expression for tensors that are ignored, and for our paths
      that keep their values; '' matches none.
    edits: functions by our paths that map a tensor in our layout to one of the
      same or another number of input channels ([h, w, C, K]) before it is
      copied, for instance `adapt_input_channels`.

  Raises:
    ValueError: a path has no tensor, a tensor has no path, shapes differ,
      values are not finite, or a regular expression is invalid.
  """
  edits = edits or {}
  leaves = flatten_variables(variables)
  values: dict[str, np.ndarray] = {}
  missing, mismatched, used = [], [], set()
  for path, ref in tensor_refs.items():
    if matches_pattern(skip, path):
      used.add(ref.name)
      continue
    if ref.name not in tensors:
      wanted = repr(ref.name) if ref.name else 'a tensor that the system lacks'
      missing.append(f'{path}, wanted {wanted}')
      continue
    used.add(ref.name)
    value = _convert_layout(ref, _check_and_cast(ref.name, tensors[ref.name]))
    if value is not None and path in edits:
      value = edits[path](value)
    shape = leaves[path].shape
    if value is None or value.shape != shape:
      file_shape = tensors[ref.name].shape if value is None else value.shape
      mismatched.append(f'{path} {shape}, {ref.name!r} {file_shape}')
      continue
    values[path] = np.ascontiguousarray(value)
  unmatched = [
    f'{name!r} {tensors[name].shape}'
    for name in set(tensors) - used
    if not matches_pattern(unused, name) and not matches_pattern(skip, name)
  ]
  problems = [
    _format_problems(title, lines)
    for title, lines in (
      ('Variables without a tensor', missing),
      ('Tensors of the file without a variable', unmatched),
      ('Shapes that differ, ours first', mismatched),
    )
    if lines
  ]
  if problems:
    raise ValueError(
      'the weights do not fit the network; change config.model to the model '
      'of the weights, or exclude variables and tensors by a regular '
      'expression, config.init_skip.\n' + '\n'.join(problems)
    )
  return traverse_util.unflatten_dict(
    {
      path: values.get(path.partition('/')[2], leaf)
      for path, leaf in traverse_util.flatten_dict(variables, sep='/').items()
    },
    sep='/',
  )


def matches_pattern(pattern: str, name: str) -> bool:
  """Returns True if a regular expression matches a whole name; '' never does.

  Raises:
    ValueError: the regular expression is invalid.
  """
  try:
    return bool(pattern) and re.fullmatch(pattern, name) is not None
  except re.error as e:
    raise ValueError(
      f'config.init_skip={pattern!r} is not a regular expression: {e}'
    ) from None
