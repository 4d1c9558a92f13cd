"""Builds the ops of a config and applies them one after the other."""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import ClassVar

import numpy as np

from deeplab.data.augmentation import base
from deeplab.data.augmentation import geometric
from deeplab.data.augmentation import lazy_image
from deeplab.data.augmentation import photometric
from deeplab.data.augmentation import sizes

# Every op, by its name in `config.data.augment.ops`. Each is registered once,
# in the module of its class.
OPS: dict[str, type[base.Op]] = dict(
  sorted((geometric.OPS | photometric.OPS).items())
)

# Parameters that all ops share: an op with a field of this name gets its value
# from `config.data.augment` itself instead of from its own section.
_SHARED = ('fill', 'shrink', 'nearest')


@dataclasses.dataclass(frozen=True)
class Compose(base.Op):
  """Several ops in a row.

  Attributes:
    ops: the ops, in the order in which they are applied.
  """

  ops: tuple[base.Op, ...]
  accepts_lazy: ClassVar[bool] = True

  def __call__(
    self, example: base.Example, rng: np.random.Generator
  ) -> base.Example:
    """Applies the ops; the image that is returned is an array in any case."""
    for op in self.ops:
      if not op.accepts_lazy:
        example = _materialize(example)
      example = op(example, rng)
    return _materialize(example)

  def size_after(self, size: sizes.Size, quantile: float) -> sizes.Size:
    """Returns the size after all ops, each at the same quantile."""
    for op in self.ops:
      size = op.size_after(size, quantile)
    return size


def compose_ops(augment: Any, mean: Sequence[float]) -> Compose:
  """Builds the augmentation of a config.

  Args:
    augment: `config.data.augment`: `ops` names the ops in order; the parameters
      of each stand in a section of its name; `shrink`, `nearest` and `fill`
      are shared by the ops that have a field of this name.
    mean: one value per channel, the color of uncovered pixels where `fill` is
      empty.

  Raises:
    ValueError: an op is unknown, its parameters are missing or unknown, or
      `fill` has another number of channels than `mean`.
  """
  fill = tuple(augment.get('fill') or mean)
  if len(fill) != len(mean):
    raise ValueError(
      f'config.data.augment.fill={fill} is not a value for each of the '
      f'{len(mean)} channels; use () for config.data.mean'
    )
  for name in sorted(set(augment) - {'ops', *_SHARED}):
    _require_known(name)
  return Compose(tuple(_build_op(name, augment, fill) for name in augment.ops))


def compose_known_ops(augment: Any) -> Compose:
  """Builds the ops of a config and skips those that cannot be built.

  The doctor follows sizes through the ops of a config that training rejects,
  to report all of its mistakes at once.

  Args:
    augment: `config.data.augment`.
  """
  ops = []
  for name in augment.ops:
    try:
      ops.append(_build_op(name, augment, fill=()))
    except ValueError:
      continue
  return Compose(tuple(ops))


def fixed_output_size(augment: Any) -> sizes.Size | None:
  """Returns the (H, W) of every augmented example; None if sizes differ.

  Args:
    augment: `config.data.augment`.

  Raises:
    ValueError: an op is unknown, or its parameters are missing or unknown.
  """
  ops = Compose(tuple(_build_op(name, augment, ()) for name in augment.ops))
  found = {
    ops.size_after(size, quantile)
    for size in ((1, 1), (2**14, 2**15))
    for quantile in (0.0, 1.0)
  }
  return found.pop() if len(found) == 1 else None


def require_same_size(image_sizes: Iterable[sizes.Size]) -> sizes.Size:
  """Returns the (H, W) that all images of a batch share.

  Args:
    image_sizes: (H, W) of each image.

  Raises:
    ValueError: they differ, so that the images cannot be stacked.
  """
  found = sorted(set(image_sizes))
  if len(found) > 1:
    more = f' and {len(found) - 3} more' if len(found) > 3 else ''
    raise ValueError(
      f'examples of sizes {found[:3]}{more} do not make a batch: end '
      'config.data.augment.ops with random_crop or stretch'
    )
  return found[0]


def _require_known(name: str) -> None:
  """Raises ValueError if no op has this name."""
  if name not in OPS:
    raise ValueError(
      f'config.data.augment names {name!r}, which is not one of '
      f'{", ".join(OPS)}'
    )


def _build_op(name: str, augment: Any, fill: Sequence[float]) -> base.Op:
  """Builds one op from its section of the config.

  Args:
    name: a key of OPS.
    augment: `config.data.augment`.
    fill: color of uncovered pixels, one value per channel; () will do for an
      op that is asked for sizes alone.

  Raises:
    ValueError: the op is unknown, or its parameters are missing or unknown.
  """
  _require_known(name)
  fields = {field.name for field in dataclasses.fields(OPS[name])}
  own = fields - set(_SHARED)
  parameters = dict(augment[name]) if name in augment else {}
  if set(parameters) != own:
    raise ValueError(
      f'config.data.augment.{name} has the parameters '
      f'{sorted(parameters)}; {name} takes {sorted(own)}'
    )
  if name == 'pad' and not parameters['size']:
    parameters['size'] = augment.random_crop.size
  for key in fields - own:
    parameters[key] = fill if key == 'fill' else augment.get(key)
  return OPS[name](**parameters)


def _materialize(example: base.Example) -> base.Example:
  """Returns the example with its image as an array."""
  return example | {'image': lazy_image.materialize(example['image'])}
