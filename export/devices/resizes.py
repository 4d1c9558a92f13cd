"""The bilinear resizes of a network, and the stages a target needs for them.

Some devices resize by few ratios only: an Ethos-U55 by 2 with half-pixel
centers. A network with `config.model.resize_ratio=2` resizes in stages of at
most that ratio, and `choose_ratio` finds the largest ratio that a target runs.
"""

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
  """One bilinear resize operator.

  Attributes:
    start: (h, w) of the input.
    end: (H, W) of the output.
    align_corners: True if the corner pixels' centers coincide, False for
      half-pixel centers (`resizing.resize`).
  """

  start: tuple[int, ...]
  end: tuple[int, ...]
  align_corners: bool

  def is_supported_by(self, target: targets.Target) -> bool:
    """Returns True if the target runs it as one operator.

    Vela also requires the same ratio for height and width.
    """
    ratios = resizing.axis_ratios(self.start, self.end, self.align_corners)
    return all(
      target.supports_resize_ratio(ratio, self.align_corners)
      for ratio in ratios
    ) and (target.compiler != 'vela' or len(set(ratios)) == 1)

  def stages(self, ratio: int) -> Iterator['Resize']:
    """Yields the resizes that replace it in a network with a `resize_ratio`."""
    aligned = self.align_corners
    sizes = resizing.stage_sizes(self.start, self.end, aligned, ratio)
    for start, end in itertools.pairwise((self.start, *sizes)):
      yield Resize(start, end, aligned)


def find_resizes(
  compute: Callable[..., Any], variables: Any, shape: Sequence[int]
) -> list[Resize]:
  """Lists the resizes of a function in execution order.

  Args:
    compute: function of (variables, images).
    variables: PyTree of arrays, or of their shapes.
    shape: [B, H, W, C] of the images, float32.
  """
  images = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  return list(_walk_jaxpr(jax.make_jaxpr(compute)(variables, images).jaxpr))


def find_network_resizes(
  model: segmenter.Segmenter, shape: Sequence[int], skip_last: bool
) -> list[Resize]:
  """Lists the resizes of a network in execution order.

  Args:
    model: the network.
    shape: [B, H, W, C] of the images.
    skip_last: leaves out the last resize, to the size of the image.
  """
  images = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  compute = functools.partial(model.apply, full_resolution=not skip_last)
  return find_resizes(compute, variables, shape)


def _walk_jaxpr(jaxpr: Any) -> Iterator[Resize]:
  """Yields the resizes of a jaxpr, which are composites with attributes."""
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
  """Chooses the `resize_ratio` with which a target runs all resizes.

  The trained ratio is kept if the target supports it, then resizes without
  stages are tried, then the target's ratios from the largest.

  Args:
    resizes: the resizes of the network without stages.
    trained: the `resize_ratio` that it was trained with.
    target: the device.

  Returns:
    The ratio; 0 for resizes without stages.

  Raises:
    ValueError: no ratio is supported; names the resize and the remedy.
  """
  supported = set().union(
    *(target.resize_ratios(resize.align_corners) or () for resize in resizes)
  )
  refused = None
  for limit in (trained, 0, *sorted(supported, reverse=True)):
    refused = next(
      (
        resize
        for resize in resizes
        if not all(
          stage.is_supported_by(target) for stage in resize.stages(limit)
        )
      ),
      None,
    )
    if refused is None:
      return limit
  assert refused is not None
  start, end = ('x'.join(map(str, size)) for size in refused[:2])
  ratios = target.resize_ratios(refused.align_corners) or ()
  raise ValueError(
    f'{target.name} cannot resize a map from {start} to {end}: the ratio of '
    f'{"size - 1" if refused.align_corners else "sizes"} per stage must be '
    f'{" or ".join(map(str, ratios)) or "1"}; choose another image size or '
    'config.model.head.align_corners, or leave the last resize to the host'
  )
