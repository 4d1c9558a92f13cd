"""Scales and zero points of int8 and int16 tensors, and rounding to them.

A tensor is stored as integers q; its values are scale * (q - zero_point). These
are the formulas by which the simulation rounds and the file is written, so that
both hold the same float32 scales bit by bit. The scheme is LiteRT's:
https://ai.google.dev/edge/litert/models/quantization_spec
"""

import re
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab.quantization import fixed_point
from deeplab.quantization import rules as rules_lib

Array = jax.Array
PyTree = Any


def _divide_exactly(x: Array, n: int) -> Array:
  """Returns x / n, correctly rounded to float32 where float64 is enabled.

  Compiled as part of a graph, XLA multiplies by the float32 1 / n instead,
  while the scales of the file are computed one operation at a time.
  """
  return (fixed_point.to_float64(x) / n).astype(jnp.float32)


def _power_of_two_scale(absmax: Array) -> Array:
  # The margin keeps an error in the last bit of log2 from turning 2^-7 into
  # 2^-6.
  exponent = jnp.log2(jnp.maximum(_divide_exactly(absmax, 127), 2.0**-20))
  return fixed_point.exact_exp2(jnp.ceil(exponent - 1e-6))


def activation_qparams(
  low: Array, high: Array, power_of_two: bool, int16_activations: bool = False
) -> tuple[Array, Array | None]:
  """Returns the scale and zero point of an activation with a given range.

  int8:  scale = (high - low) / 255, zero point = round(-128 - low / scale)
  int16: scale = max(-low, high) / 32767, zero point 0

  Args:
    low: float32 of any shape, 0 or less.
    high: float32 of the same shape, 0 or more.
    power_of_two: rounds the scale up to a power of two, with zero point 0.
    int16_activations: the tensor is int16.

  Returns:
    (scale, zero point), float32 of the shape of `low`. A zero point that is
    always 0 is None.
  """
  if int16_activations:
    absmax = jnp.maximum(jnp.maximum(-low, high), 2.0**-12)
    return _divide_exactly(absmax, 2**15 - 1), None
  if power_of_two:
    return _power_of_two_scale(jnp.maximum(-low, high)), None
  # LiteRT rejects the multipliers that smaller scales lead to.
  high = jnp.maximum(high, low + 255 * 2.0**-20)
  scale = _divide_exactly(high - low, 255)
  return scale, jnp.clip(jnp.round(-128 - low / scale), -128, 127)


def weight_scale(
  absmax: Array, power_of_two: bool, int16_activations: bool = False
) -> Array:
  """Returns the scales of an int8 kernel, absmax / 127; zero points are 0.

  Args:
    absmax: float32, largest absolute weight of each output channel [C], or of
      the whole kernel (a scalar).
    power_of_two: rounds the scales up to powers of two.
    int16_activations: the convolution reads int16 activations.

  Returns:
    float32 of the shape of `absmax`.
  """
  if power_of_two:
    return _power_of_two_scale(absmax)
  # Not 127.5 as in Qwix, under which the largest weight saturates.
  scale = _divide_exactly(absmax, 127)
  # The bias is stored in units of (weight scale * input scale). The scale of a
  # channel whose weights are almost 0 would be so small that its bias overflows
  # int32; it is kept at 2^-14 of the largest scale, or at 2^-7 for int16
  # inputs, whose scale is smaller by 2^-7 or more.
  largest = jnp.maximum(jnp.max(scale), 2.0**-20)
  return jnp.maximum(scale, largest * 2.0 ** (-7 if int16_activations else -14))


def round_kernels(variables: PyTree, rules: rules_lib.Rules) -> PyTree:
  """Rounds kernels to multiples of their scales, as training has rounded them.

  Simulated int8 computes the same with the result. Training in simulated int8
  leaves many weights halfway between two steps, where they oscillated; folding
  a BatchNorm into such a kernel could move them to the other step, and the file
  would hold another network than the one that was evaluated.

  Args:
    variables: {'params', ...}; kernels are [h, w, in, out].
    rules: the layers that are quantized, with one scale for each output
      channel.

  Returns:
    The variables with rounded kernels; all others are the same arrays.
  """
  params = flax.traverse_util.flatten_dict(variables['params'])
  with jax.enable_x64(True):
    for path, kernel in params.items():
      module = '/'.join(path[:-1])
      if path[-1] != 'kernel' or re.fullmatch(rules.float_pattern, module):
        continue
      absmax = jnp.max(jnp.abs(kernel), axis=(0, 1, 2), keepdims=True)
      scale = weight_scale(
        absmax, rules.power_of_two, rules.has_int16_activations(module)
      )
      steps = fixed_point.round_half_away(
        fixed_point.to_float64(kernel) / fixed_point.to_float64(scale)
      )
      params[path] = np.asarray(jnp.clip(steps, -127, 127) * scale, np.float32)
  return {**variables, 'params': flax.traverse_util.unflatten_dict(params)}
