"""The resizes of a network, and the steps in which a target makes them."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
import itertools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deeplab.models import resizing
from deeplab.models import segmenter
from export.devices import targets


class Resize(NamedTuple):
  """A resize in one step.

  Attributes:
    start: (h, w).
    end: (H, W).
    align_corners: see `resizing.resize`.
  """

  start: tuple[int, ...]
  end: tuple[int, ...]
  align_corners: bool

  def is_supported_by(self, target: targets.Target) -> bool:
    """Whether the target makes it at once; Vela wants axes to grow alike."""
    found = resizing.axis_ratios(self.start, self.end, self.align_corners)
    return all(
      target.supports_resize_ratio(ratio, self.align_corners) for ratio in found
    ) and (target.compiler != 'vela' or len(set(found)) == 1)

  def stages(self, ratio: int) -> Iterator['Resize']:
    """Yields the resizes that a network with that `resize_ratio` has."""
    aligned = self.align_corners
    sizes = resizing.stage_sizes(self.start, self.end, aligned, ratio)
    for start, end in itertools.pairwise((self.start, *sizes)):
      yield Resize(start, end, aligned)


def find_resizes(
  compute: Callable[..., Any], variables: Any, shape: Sequence[int]
) -> list[Resize]:
  """Returns the resizes of a function, in the order of execution.

  Args:
    compute: maps variables and images to anything.
    variables: arrays, or their shapes.
    shape: [B, H, W, C] of the images.
  """
  image = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  return list(_walk_jaxpr(jax.make_jaxpr(compute)(variables, image).jaxpr))


def find_network_resizes(
  model: segmenter.Segmenter, shape: Sequence[int], skip_last: bool
) -> list[Resize]:
  """Returns the resizes of a network.

  Args:
    model: the network.
    shape: [B, H, W, C] of the images.
    skip_last: leaves the last one out.
  """
  image = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  compute = functools.partial(model.apply, full_resolution=not skip_last)
  return find_resizes(compute, variables, shape)


def _walk_jaxpr(jaxpr: Any) -> Iterator[Resize]:
  for equation in jaxpr.eqns:
    params = equation.params
    if equation.primitive.name == 'composite':
      start, end = equation.invars[0], equation.outvars[0]
      attributes = {name: values for name, values, _ in params['attributes']}
      (aligned,) = attributes['align_corners']
      yield Resize(start.aval.shape[1:3], end.aval.shape[1:3], aligned)
      continue
    for value in params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from _walk_jaxpr(inner)


def choose_ratio(
  resizes: Sequence[Resize], trained: int, target: targets.Target
) -> int:
  """Returns the `resize_ratio` with which a target makes all resizes.

  Args:
    resizes: the resizes of the network without a limit.
    trained: the limit that it was trained with; kept if it will do.
    target: the device.

  Returns:
    The largest that will do; 0 for no limit.

  Raises:
    ValueError: none does; names the resize and what to change.
  """
  allowed = set().union(
    *(target.resize_ratios(resize.align_corners) or () for resize in resizes)
  )
  refused = None
  for limit in (trained, 0, *sorted(allowed, reverse=True)):
    refused = next(
      (
        x
        for x in resizes
        if not all(s.is_supported_by(target) for s in x.stages(limit))
      ),
      None,
    )
    if refused is None:
      return limit
  assert refused is not None
  start, end = ('x'.join(map(str, size)) for size in refused[:2])
  ratios = target.resize_ratios(refused.align_corners) or ()
  raise ValueError(
    f'{target.name} cannot resize a map from {start} to {end}: it takes ratios '
    f'of {", ".join(map(str, ratios)) or "no kind"} a step'
    f'{" of size - 1" if refused.align_corners else ""}; choose another size '
    'of images or config.model.head.align_corners, or leave the last resize '
    'to the host'
  )
