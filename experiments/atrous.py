"""Visualizes output stride, atrous rates and ASPP as arrays and images."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib import colormaps
import numpy as np

from deeplab.models import output_stride as output_strides
from deeplab.models import registry


def sampling_masks(rates: Sequence[int], size: int) -> np.ndarray:
  """Returns the pixels that the central output of each ASPP branch reads.

  Args:
    rates: rates of the 3x3 convolutions; 0 is the 1x1 convolution.
    size: height and width of the map.

  Returns:
    bool [branches, size, size].
  """
  read = np.zeros((len(rates), size, size), bool)
  for branch, rate in zip(read, rates, strict=True):
    near = size // 2 + rate * np.arange(-1, 2)
    near = near[(near >= 0) & (near < size)]
    branch[np.ix_(near, near)] = True
  return read


def receptive_field(
  strides: Sequence[int], output_stride: int, size: int
) -> np.ndarray:
  """Returns the receptive field of the central output in one dimension.

  Args:
    strides: nominal strides of layers with kernel size 3.
    output_stride: the desired product of strides; rates replace the rest.
    size: length of the input.

  Returns:
    float64 [size]: share of the 3 ** layers paths through each pixel; sums to
    1.
  """
  plan = output_strides.atrous(strides, output_stride, (1,))
  offsets = {0: 1.0}
  step = int(np.prod([layer.stride for layer in plan]))
  for layer in reversed(plan):
    step //= layer.stride
    spread: dict[int, float] = {}
    for offset, ways in offsets.items():
      for tap in (-1, 0, 1):
        place = offset + tap * layer.rate * step
        spread[place] = spread.get(place, 0.0) + ways / 3
    offsets = spread
  line = np.zeros(size)
  for offset, ways in offsets.items():
    if 0 <= size // 2 + offset < size:
      line[size // 2 + offset] += ways
  return line


def encode_at_output_strides(
  config: Any, variables: Any, image: np.ndarray, strides: Sequence[int]
) -> list[np.ndarray]:
  """Computes the last feature map of one encoder at several output strides.

  Args:
    config: `config.model`.
    variables: {'params', 'batch_stats'} of the network.
    image: float32 [H, W, 3], normalized.
    strides: output strides.

  Returns:
    float32 [h, w, C] for each stride.
  """
  found = []
  own = {kind: variables[kind]['encoder'] for kind in ('params', 'batch_stats')}
  for stride in strides:
    changed = registry.with_output_stride(config, stride)
    encoder = registry.build_model(changed, 2).encoder
    run = jax.jit(lambda v, x, encoder=encoder: encoder.apply(v, x, False)[-1])
    found.append(np.asarray(run(own, jnp.asarray(image)[None])[0]))
  return found


def heatmap_colors(values: np.ndarray) -> np.ndarray:
  """Maps an array [h, w] to colors, uint8 [h, w, 3]; 0 is dark."""
  values = np.asarray(values, np.float64)
  shares = values / max(values.max(), 1e-12)
  return (255 * colormaps['magma'](shares)[..., :3]).round().astype(np.uint8)
