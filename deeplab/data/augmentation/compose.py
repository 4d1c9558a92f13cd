"""Augmentations: what ops there are, and several of them in a row.

An example is a dict with 'image' [H, W, C] (RGB of uint8, or any number of
channels of uint8 or uint16) and 'label' [H, W] uint8 train ids. Every op takes
the whole example, a random generator and its own parameters, and returns a new
example; it keeps no state and changes no input. Other keys pass through.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import functools
import inspect
from typing import Any

import numpy as np

from deeplab.data.augmentation import geometric
from deeplab.data.augmentation import lazy_image
from deeplab.data.augmentation import photometric
from deeplab.data.augmentation import sizes

Example = dict[str, Any]


def normalize_image(image: Any, mean: Any, std: Any) -> Any:
  """Returns (image - mean) / std in float32, channel by channel.

  Args:
    image: [..., C], values 0..255 or 0..65535; a NumPy or JAX array.
    mean: C values, in the units of `image`.
    std: C values.
  """
  mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  return (image.astype(np.float32) - mean) * (np.float32(1) / std)


# Every op, by the name that configs use.
OPS: dict[str, Callable[..., Example]] = {
  'brightness_contrast': photometric.brightness_contrast,
  'distort': photometric.distort,
  'pad': geometric.pad,
  'photometric': photometric.photometric,
  'random_crop': geometric.random_crop,
  'random_fit': geometric.random_fit,
  'random_flip': geometric.random_flip,
  'random_flip_vertical': geometric.random_flip_vertical,
  'random_rotate': geometric.random_rotate,
  'random_scale': geometric.random_scale,
  'random_short_side': geometric.random_short_side,
  'random_stretch': geometric.random_stretch,
  'random_window': geometric.random_window,
  'stretch': geometric.stretch,
}


# Those that may be given a `deferred.Image`.
_LAZY_OPS = (
  *('pad', 'random_crop', 'random_fit', 'random_scale', 'random_short_side'),
  *('random_stretch', 'stretch'),
)


def fixed_output_size(augment: Any) -> tuple[int, int] | None:
  """Returns the (H, W) that `compose_ops` gives every example; None for no one.

  Args:
    augment: see `compose_ops`.
  """
  found = {
    sizes.size_after_ops(augment, augment.ops, size, quantile)
    for size in ((1, 1), (2**14, 2**15))
    for quantile in (0.0, 1.0)
  }
  return found.pop() if len(found) == 1 else None


def require_same_size(image_sizes: Iterable[sizes.Size]) -> sizes.Size:
  """Returns the one (H, W) that images have to have to make a batch.

  Raises:
    ValueError: there are several.
  """
  found = sorted(set(image_sizes))
  if len(found) > 1:
    more = f' and {len(found) - 3} more' if len(found) > 3 else ''
    raise ValueError(
      f'examples of sizes {found[:3]}{more} do not make a batch: end '
      'config.data.augment.ops with random_crop or stretch'
    )
  return found[0]


def compose_ops(
  augment: Any, mean: Sequence[float]
) -> Callable[[Example, np.random.Generator], Example]:
  """Builds one function from `config.data.augment`.

  Args:
    augment: a ConfigDict with `ops`, names in the order of their use, and
      under each name the op's parameters, all of them; and `shrink` and
      `nearest`, see `geometry.resize`, for the ops that resize, and `fill`, a
      value a channel, for the ops that uncover pixels.
    mean: a value a channel, what uncovered pixels get where `fill` is empty.

  Returns:
    A function (example, rng) -> example; a `deferred.Image` becomes pixels.

  Raises:
    ValueError: an unknown op, parameters missing or unknown, or a `fill` of
      another number of channels.
  """
  steps = []
  fill = tuple(augment.get('fill') or mean)
  if len(fill) != len(mean):
    raise ValueError(
      f'config.data.augment.fill={fill} is not a value for each of the '
      f'{len(mean)} channels; use () for config.data.mean'
    )
  shared = {
    'fill': fill,
    'shrink': augment.get('shrink'),
    'nearest': augment.get('nearest'),
  }
  for name in sorted(set(augment) - {'ops', *shared}) + list(augment.ops):
    if name not in OPS:
      raise ValueError(
        f'config.data.augment names {name!r}, which is not one of '
        f'{", ".join(OPS)}'
      )
  for name in augment.ops:
    parameters = dict(augment[name]) if name in augment else {}
    known = set(inspect.signature(OPS[name]).parameters) - {'example', 'rng'}
    own = known - set(shared)
    if set(parameters) != own:
      raise ValueError(
        f'config.data.augment.{name} has the parameters '
        f'{sorted(parameters)}; {name} takes {sorted(own)}'
      )
    parameters |= {key: shared[key] for key in known - own}
    if name == 'pad':
      parameters['size'] = sizes.pad_target_size(augment)
    steps.append((name, functools.partial(OPS[name], **parameters)))

  def apply(example: Example, rng: np.random.Generator) -> Example:
    for name, step in steps:
      if name not in _LAZY_OPS:
        example = example | {'image': lazy_image.materialize(example['image'])}
      example = step(example, rng)
    return example | {'image': lazy_image.materialize(example['image'])}

  return apply
