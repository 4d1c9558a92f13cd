"""Output stride: atrous convolution in place of strides in the last stages.

Once the product of the strides has reached the output stride, every further
stride becomes 1 and multiplies the rate of the layers after it. The layer that
lost its stride keeps its rate: its input is as fine as before, only its output
is denser. So the same weights compute the same function at every output stride,
on a finer grid.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation",
2017, section 3; `stack_blocks_dense` in TensorFlow's research/deeplab. Some
systems have another rule, and weights that were trained by it need it
(`DilationRule`).
"""

from collections.abc import Sequence
import math
from typing import Literal
from typing import NamedTuple

OUTPUT_STRIDES = (4, 8, 16, 32)

# Rate of a layer that lost its stride. 'tf' keeps the old one, as above.
# 'torchvision' multiplies the rate in that layer already, which computes
# another function than the strided network: torchvision's MobileNetV3, and all
# encoders of segmentation_models.pytorch.
DilationRule = Literal['tf', 'torchvision']
DILATION_RULES = ('tf', 'torchvision')


class StrideRate(NamedTuple):
  """Stride and atrous rate of one layer."""

  stride: int
  rate: int


def atrous(
  strides: Sequence[int],
  output_stride: int,
  multi_grid: Sequence[int] = (),
  rule: DilationRule = 'tf',
) -> tuple[StrideRate, ...]:
  """Turns the nominal strides of a network into strides and rates.

  Args:
    strides: nominal stride of each layer (or unit) in order, from the stem.
    output_stride: 4, 8, 16 or 32.
    multi_grid: factors multiplied onto the rates of the last `len(multi_grid)`
      layers, at every output stride.
    rule: rate of a layer that lost its stride, one of `DILATION_RULES`.

  Returns:
    One (stride, rate) per layer.

  Raises:
    ValueError: `output_stride` is not one of the four or not a product of the
      first strides; `multi_grid` is longer than `strides` or has a factor
      below 1.
  """
  if output_stride not in OUTPUT_STRIDES:
    raise ValueError(
      f'output_stride={output_stride!r} is not one of {OUTPUT_STRIDES}'
    )
  if len(multi_grid) > len(strides) or any(factor < 1 for factor in multi_grid):
    raise ValueError(
      f'multi_grid={tuple(multi_grid)} must hold factors of 1 and more, at '
      f'most one for each of the {len(strides)} layers'
    )
  plan, reached, rate = [], 1, 1
  for stride in strides:
    if reached < output_stride:
      plan.append(StrideRate(stride, rate))
      reached *= stride
    else:
      lost = rate * stride if rule == 'torchvision' else rate
      plan.append(StrideRate(1, lost))
      rate *= stride
  if reached != output_stride:
    raise ValueError(
      f'output_stride={output_stride} cannot be reached with strides '
      f'{tuple(strides)}, whose product is {math.prod(strides)}'
    )
  first = len(plan) - len(multi_grid)
  for i, factor in enumerate(multi_grid, start=first):
    plan[i] = plan[i]._replace(rate=plan[i].rate * factor)
  return tuple(plan)
