"""Kernels put onto the int8 grid that training rounded them to.

Training in simulated int8 leaves many weights in the middle between two steps,
where they went to and fro. Folding a BatchNorm into such a kernel may send them
to the other side, and a file of it is another network than was evaluated.
"""

import re
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab.quantization import fixed_point
from deeplab.quantization import qparams
from deeplab.quantization import rules as rules_lib

PyTree = Any


def round_to_qparams(variables: PyTree, rules: rules_lib.Rules) -> PyTree:
  """Returns variables whose kernels are whole steps of their scales.

  `providers.simulate_int8` computes the same with them, and so does what folds
  them.

  Args:
    variables: {'params', ...}; kernels are [h, w, in, out].
    rules: what is quantised, with one scale a channel.
  """
  params = flax.traverse_util.flatten_dict(variables['params'])
  with jax.enable_x64(True):
    for path, kernel in params.items():
      module = '/'.join(path[:-1])
      if path[-1] != 'kernel' or re.fullmatch(rules.float_pattern, module):
        continue
      largest = jnp.max(jnp.abs(kernel), axis=(0, 1, 2), keepdims=True)
      scale = qparams.weight_scale(
        largest, rules.power_of_two, rules.has_int16_activations(module)
      )
      steps = fixed_point.round_half_away(
        fixed_point.to_float64(kernel) / fixed_point.to_float64(scale)
      )
      params[path] = np.asarray(jnp.clip(steps, -127, 127) * scale, np.float32)
  return {**variables, 'params': flax.traverse_util.unflatten_dict(params)}
