"""Tensors of a file into the variables of a network, strictly.

A system's names are a function `sources(variables) -> {path: Source}`. A path
is that of one of our variables without its collection,
'encoder/stem/norm/bn/mean'; a source is the name of a tensor of the file and
what its axes mean. The function covers the part of the network that it knows,
all of it: what it leaves out of a part would keep its random start unseen.
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

PyTree = Any
Tensors = Mapping[str, np.ndarray]

# Lines of each kind that an error shows.
_MAX_SHOWN_LINES = 20


def _transpose_axes(*order: int) -> Callable[[np.ndarray], np.ndarray]:
  return lambda x: x.transpose(order)


# From the axes of a file to ours: kernels [h, w, in, out], [h, w, 1, out] if
# depthwise, and vectors.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'same': lambda x: x,
  # TensorFlow's depthwise kernels, m outputs of each input.
  'hwim': lambda x: _transpose_axes(0, 1, 2, 3)(x).reshape(*x.shape[:2], 1, -1),
  # PyTorch's convolutions, grouped and depthwise ones among them.
  'oihw': _transpose_axes(2, 3, 1, 0),
  # TFLite's convolutions, and its depthwise ones.
  'ohwi': _transpose_axes(1, 2, 3, 0),
  '1hwo': _transpose_axes(1, 2, 0, 3),
}


class TensorRef(NamedTuple):
  """Where the value of one of our variables comes from.

  Attributes:
    name: of the tensor in the file.
    layout: one of `LAYOUTS`.
    roll: moves the input channels of the kernel this far, those that fall off
      the end to the start: our ASPP projects (pooling, 1x1, rates), others'
      (1x1, rates, pooling).
  """

  name: str
  layout: str = 'same'
  roll: int = 0


def flatten_variables(variables: PyTree) -> dict[str, Any]:
  """Returns the leaves by their path without the collection."""
  return {
    path.partition('/')[2]: leaf
    for path, leaf in traverse_util.flatten_dict(variables, sep='/').items()
  }


def adapt_input_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
  """Returns the first kernel, trained on RGB, for another number of channels.

  One channel gets the sum over RGB: a grey image gives the same response as
  its RGB copy. Each channel behind the third gets the mean over RGB, and all
  are scaled by 3 / channels: an image with the same value in all channels gives
  the same response as before.

  Args:
    kernel: [h, w, 3, out].
    channels: input channels of the network, 1 or 3 and more.

  Returns:
    [h, w, channels, out].

  Raises:
    ValueError: the kernel does not read RGB, or for two channels.
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


def _check_and_cast(name: str, tensor: np.ndarray) -> np.ndarray:
  """Returns the tensor as float32.

  Raises:
    ValueError: it holds integers, or values that are not finite.
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
      'is damaged or of a run that diverged: take another'
    )
  return tensor


def _convert_layout(
  tensor_ref: TensorRef, tensor: np.ndarray
) -> np.ndarray | None:
  """Returns the tensor in our layout; None if its rank is another's."""
  try:
    value = LAYOUTS[tensor_ref.layout](tensor)
  except ValueError:
    return None
  return np.roll(value, tensor_ref.roll, axis=2) if tensor_ref.roll else value


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
  """Returns a copy of the variables with the tensors in their places.

  Args:
    variables: nested {'params', 'batch_stats'}.
    tensors: of the file.
    tensor_refs: where the variables come from, by their paths. Others are left
      as they are.
    unused: regular expression for the names of tensors that we have no use for,
      such as the classifier of ImageNet's classes; '' is none. This and `skip`
      match whole names, 'head/.*'.
    skip: regular expression for tensors that are passed over, and for paths of
      ours that keep their values; '' is none.
    edits: what to do with a tensor in our layout before it takes the place of
      the path, `adapt_input_channels` for one.

  Raises:
    ValueError: a path without its tensor, a tensor without a place, shapes that
      differ, values that are not finite, or a regular expression that is none.
  """
  edits = edits or {}
  leaves = flatten_variables(variables)
  values: dict[str, np.ndarray] = {}
  missing, differ, used = [], [], set()
  for path, source in tensor_refs.items():
    if matches_pattern(skip, path):
      used.add(source.name)
      continue
    if source.name not in tensors:
      wanted = repr(source.name) if source.name else 'what it names nowhere'
      missing.append(f'{path}, wanted {wanted}')
      continue
    used.add(source.name)
    value = _convert_layout(
      source, _check_and_cast(source.name, tensors[source.name])
    )
    if value is not None and path in edits:
      value = edits[path](value)
    wanted = leaves[path].shape
    if value is None or value.shape != wanted:
      there = tensors[source.name].shape if value is None else value.shape
      differ.append(f'{path} {wanted}, {source.name!r} {there}')
      continue
    values[path] = np.ascontiguousarray(value)
  left = [
    f'{name!r} {tensors[name].shape}'
    for name in set(tensors) - used
    if not matches_pattern(unused, name) and not matches_pattern(skip, name)
  ]
  problems = [
    _format_problems(title, lines)
    for title, lines in (
      ('Ours without a tensor', missing),
      ("The file's without a place", left),
      ('Shapes that differ, ours first', differ),
    )
    if lines
  ]
  if problems:
    raise ValueError(
      'the weights do not fit the network; change the model to that of the '
      'weights, or excuse paths of ours and tensors of the file by a regular '
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
  """Returns whether a regular expression, '' for none, matches in a name.

  Raises:
    ValueError: it is no regular expression.
  """
  try:
    return bool(pattern) and re.fullmatch(pattern, name) is not None
  except re.error as e:
    raise ValueError(
      f'config.init_skip={pattern!r} is not a regular expression: {e}'
    ) from None
