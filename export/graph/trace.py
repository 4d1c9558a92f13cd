"""The int8 graph that a network will become, from shapes alone.

Nothing is computed or converted: the network is traced, BatchNorm and
activations are taken to be fused into the operator before them, as the
converter does, and what is left has the operators, shapes and constants of the
file. It takes a second, where a conversion takes a minute.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp

from deeplab.data.augmentation import compose
from deeplab.models import layers
from deeplab.models import segmenter
from export.graph import tflite_graph

_POOLING_OPERATORS = {
  'reduce_window_sum': 'AVERAGE_POOL_2D',
  'reduce_window': 'AVERAGE_POOL_2D',
  'reduce_window_max': 'MAX_POOL_2D',
}
# Operators of one name that read maps and make one.
_DIRECT_OPERATORS = {
  'concatenate': 'CONCATENATION',
  'transpose': 'TRANSPOSE',
  'pad': 'PAD',
  'slice': 'STRIDED_SLICE',
  'reduce_sum': 'SUM',
  'reduce_max': 'REDUCE_MAX',
  'argmax': 'ARG_MAX',
  'dot_general': 'BATCH_MATMUL',
  'logistic': 'LOGISTIC',
  'split': 'SPLIT',
}
_BINARY_OPERATORS = {'add': 'ADD', 'mul': 'MUL', 'sub': 'SUB', 'div': 'DIV'}
_BIAS_BYTES = 4


class _GraphBuilder:
  """Collects operators while a jaxpr is read."""

  def __init__(self) -> None:
    self.tensors: list[tflite_graph.Tensor] = []
    self.operators: list[tflite_graph.Operator] = []
    self.inputs: list[int] = []

  def add_tensor(
    self, shape: Sequence[int], dtype: str = 'int8', constant: bool = False
  ) -> int:
    """Adds a tensor; returns its index."""
    index = len(self.tensors)
    size = math.prod(shape) * (_BIAS_BYTES if dtype == 'int32' else 1)
    name = '/'.join(map(str, shape))
    if self.operators:
      name = f'{len(self.operators)}: {name}'
    self.tensors.append(
      tflite_graph.Tensor(
        name,
        dtype,
        tuple(shape),
        size if constant else 0,
        index,
        (1.0,),
        (0,),
      )
    )
    return index

  def add_operator(
    self, name: str, inputs: Sequence[int], shape: Sequence[int]
  ) -> int:
    """Adds an operator and the map that it makes; returns the map's index."""
    out = self.add_tensor(shape)
    self.operators.append(tflite_graph.Operator(name, tuple(inputs), (out,)))
    return out

  def add_convolution(self, x: int, equation: Any) -> int:
    """Adds a convolution, and the PAD that the converter puts before it."""
    left, right = (v.aval.shape for v in equation.invars)
    shape = equation.outvars[0].aval.shape
    p = equation.params
    kernel, strides, rates = right[:2], p['window_strides'], p['rhs_dilation']
    pads = tuple(tuple(pair) for pair in p['padding'])
    same = layers.explicit_padding(
      'same', left[1:3], kernel, strides[0], rates[0]
    )
    if any(any(pair) for pair in pads) and pads != same:
      rows, columns = (
        n + sum(pair) for n, pair in zip(left[1:3], pads, strict=True)
      )
      x = self.add_operator('PAD', (x,), (1, rows, columns, left[3]))
    channels = right[3]
    depthwise = p['feature_group_count'] == left[3] > 1
    weights = (
      (1, *kernel, channels) if depthwise else (channels, *kernel, right[2])
    )
    return self.add_operator(
      'DEPTHWISE_CONV_2D' if depthwise else 'CONV_2D',
      (
        x,
        self.add_tensor(weights, constant=True),
        self.add_tensor((channels,), 'int32', constant=True),
      ),
      shape,
    )

  def trace_jaxpr(self, jaxpr: Any, known: dict[Any, int]) -> None:
    """Reads equations; `known` maps variables to the maps that they hold."""
    for equation in jaxpr.eqns:
      maps = [v for v in equation.invars if isinstance(v, core.Var)]
      operands = [known[v] for v in maps if v in known]
      if not operands:
        continue
      name = equation.primitive.name
      inner = equation.params.get('jaxpr') or equation.params.get('call_jaxpr')
      if inner is not None and name != 'composite':
        self._trace_inner_jaxpr(equation, getattr(inner, 'jaxpr', inner), known)
        continue
      known[equation.outvars[0]] = self._trace_equation(
        name, equation, operands
      )

  def _trace_inner_jaxpr(
    self, equation: Any, inner: Any, known: dict[Any, int]
  ) -> None:
    own = {
      v: known[outer]
      for v, outer in zip(inner.invars, equation.invars, strict=True)
      if isinstance(outer, core.Var) and outer in known
    }
    self.trace_jaxpr(inner, own)
    for outer, v in zip(equation.outvars, inner.outvars, strict=True):
      if isinstance(v, core.Var) and v in own:
        known[outer] = own[v]

  def _trace_equation(
    self, name: str, equation: Any, operands: list[int]
  ) -> int:
    """Returns the map that an equation makes, an old one where it is fused."""
    shape = equation.outvars[0].aval.shape
    if name == 'conv_general_dilated':
      return self.add_convolution(operands[0], equation)
    if name == 'composite':
      return self.add_operator('RESIZE_BILINEAR', operands, shape)
    if name in _POOLING_OPERATORS:
      return self.add_operator(_POOLING_OPERATORS[name], operands, shape)
    if name in _DIRECT_OPERATORS:
      return self.add_operator(_DIRECT_OPERATORS[name], operands, shape)
    if name in _BINARY_OPERATORS and len(operands) == 2:
      if operands[0] == operands[1]:  # x * relu6(x + 3) / 6
        return self.add_operator('HARD_SWISH', operands[:1], shape)
      return self.add_operator(_BINARY_OPERATORS[name], operands, shape)
    if name == 'sub' and operands[0] in self.inputs:
      return self.add_operator(
        'SUB', operands, shape
      )  # what the mean is taken by
    if shape != self.tensors[operands[0]].shape and name == 'reshape':
      return self.add_operator('RESHAPE', operands, shape)
    return operands[0]


def trace_function(
  compute: Callable[..., jax.Array], variables: Any, shape: Sequence[int]
) -> tflite_graph.Graph:
  """Returns the graph of a function of variables and an image.

  Args:
    compute: maps variables and [1, H, W, 3] to a map.
    variables: arrays, or their shapes.
    shape: (1, H, W, 3).
  """
  image = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  closed = jax.make_jaxpr(compute)(variables, image)
  collected = _GraphBuilder()
  entry = collected.add_tensor(shape)
  collected.inputs.append(entry)
  known = {closed.jaxpr.invars[-1]: entry}
  collected.trace_jaxpr(closed.jaxpr, known)
  last = known[closed.jaxpr.outvars[0]]
  return tflite_graph.Graph(
    tuple(collected.tensors),
    tuple(collected.operators),
    (entry,),
    (last,),
    1,
  )


def trace_network(
  model: segmenter.Segmenter,
  size: Sequence[int],
  skip_last_resize: bool = False,
) -> tflite_graph.Graph:
  """Returns the graph of a network with normalisation in it.

  Args:
    model: built with depthwise and pointwise 'conv'.
    size: (H, W) of the image.
    skip_last_resize: leaves the last resize out.
  """
  shape = (1, *size, 3)
  variables = jax.eval_shape(
    model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32)
  )

  options: Any = {'full_resolution': False} if skip_last_resize else {}

  def compute(variables: Any, image: jax.Array) -> jax.Array:
    image = compose.normalize_image(image, (1.0,) * 3, (2.0,) * 3)
    output: Any = model.apply(variables, image, **options)
    return output.logits

  return trace_function(compute, variables, shape)
