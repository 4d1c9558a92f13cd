"""Predicts the int8 graph of a network from shapes, without a conversion.

JAX traces the network; BatchNorm and activations are assumed to be fused into
the preceding operator, as the converter does. The result has the operators,
shapes and constants of the exported file. It takes a second, where a conversion
takes a minute, so that a search can try many networks.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp

from deeplab.data import image_format
from deeplab.models import layers
from deeplab.models import segmenter
from export.graph import tflite_graph

_POOLING_OPERATORS = {
  'reduce_window_sum': 'AVERAGE_POOL_2D',
  'reduce_window': 'AVERAGE_POOL_2D',
  'reduce_window_max': 'MAX_POOL_2D',
}
# JAX primitives that become one TFLite operator, whatever their parameters.
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
  """Builds the tensors and operators of a graph from a jaxpr.

  Attributes:
    tensors: the tensors so far.
    operators: the operators so far, in execution order.
    inputs: indices of the graph inputs.
  """

  def __init__(self) -> None:
    self.tensors: list[tflite_graph.Tensor] = []
    self.operators: list[tflite_graph.Operator] = []
    self.inputs: list[int] = []

  def add_tensor(
    self, shape: Sequence[int], dtype: str = 'int8', constant: bool = False
  ) -> int:
    """Adds a tensor, quantized with one scale, and returns its index."""
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
    """Adds an operator and its output tensor; returns the tensor's index."""
    out = self.add_tensor(shape)
    self.operators.append(tflite_graph.Operator(name, tuple(inputs), (out,)))
    return out

  def add_convolution(self, x: int, equation: Any) -> int:
    """Adds a convolution, after the PAD that the converter may need for it.

    TFLite's convolutions have 'SAME' and 'VALID' padding only; any other
    padding is an operator of its own.

    Args:
      x: tensor index of the feature map.
      equation: `conv_general_dilated` with a kernel [h, w, in, out].

    Returns:
      Tensor index of the output.
    """
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

  def trace_jaxpr(self, jaxpr: Any, tensor_of: dict[Any, int]) -> None:
    """Adds the operators of a jaxpr.

    Equations without a feature map among their inputs are constants and are
    skipped.

    Args:
      jaxpr: the jaxpr.
      tensor_of: variable -> tensor index of the feature map it holds; extended
        in place.
    """
    for equation in jaxpr.eqns:
      maps = [v for v in equation.invars if isinstance(v, core.Var)]
      operands = [tensor_of[v] for v in maps if v in tensor_of]
      if not operands:
        continue
      name = equation.primitive.name
      inner = equation.params.get('jaxpr') or equation.params.get('call_jaxpr')
      if inner is not None and name != 'composite':
        self._trace_inner_jaxpr(
          equation, getattr(inner, 'jaxpr', inner), tensor_of
        )
        continue
      tensor_of[equation.outvars[0]] = self._trace_equation(
        name, equation, operands
      )

  def _trace_inner_jaxpr(
    self, equation: Any, inner: Any, tensor_of: dict[Any, int]
  ) -> None:
    own = {
      v: tensor_of[outer]
      for v, outer in zip(inner.invars, equation.invars, strict=True)
      if isinstance(outer, core.Var) and outer in tensor_of
    }
    self.trace_jaxpr(inner, own)
    for outer, v in zip(equation.outvars, inner.outvars, strict=True):
      if isinstance(v, core.Var) and v in own:
        tensor_of[outer] = own[v]

  def _trace_equation(
    self, name: str, equation: Any, operands: list[int]
  ) -> int:
    """Adds the operator of one equation.

    Args:
      name: name of the primitive.
      equation: the equation.
      operands: tensor indices of its feature maps; at least one.

    Returns:
      Tensor index of its output, or of its input if the converter fuses the
      equation into the preceding operator.
    """
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
      # Input normalization: the mean is subtracted from the image.
      return self.add_operator('SUB', operands, shape)
    if shape != self.tensors[operands[0]].shape and name == 'reshape':
      return self.add_operator('RESHAPE', operands, shape)
    return operands[0]


def trace_function(
  compute: Callable[..., jax.Array], variables: Any, shape: Sequence[int]
) -> tflite_graph.Graph:
  """Traces a function of variables and an image.

  Args:
    compute: maps (variables, [1, H, W, C] float32) to one feature map.
    variables: PyTree of arrays, or of their shapes.
    shape: (1, H, W, C) of the image.

  Returns:
    The predicted int8 graph.
  """
  image = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  closed = jax.make_jaxpr(compute)(variables, image)
  builder = _GraphBuilder()
  entry = builder.add_tensor(shape)
  builder.inputs.append(entry)
  tensor_of = {closed.jaxpr.invars[-1]: entry}
  builder.trace_jaxpr(closed.jaxpr, tensor_of)
  last = tensor_of[closed.jaxpr.outvars[0]]
  return tflite_graph.Graph(
    tuple(builder.tensors),
    tuple(builder.operators),
    (entry,),
    (last,),
    1,
  )


def trace_network(
  model: segmenter.Segmenter,
  size: Sequence[int],
  skip_last_resize: bool = False,
) -> tflite_graph.Graph:
  """Traces a network of RGB images with input normalization in the graph.

  Args:
    model: built with depthwise and pointwise 'conv'.
    size: (H, W) of the image.
    skip_last_resize: leaves out the last resize, which the host then does.

  Returns:
    The predicted int8 graph.
  """
  shape = (1, *size, 3)
  variables = jax.eval_shape(
    model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32)
  )

  options: Any = {'full_resolution': False} if skip_last_resize else {}

  def compute(variables: Any, image: jax.Array) -> jax.Array:
    image = image_format.normalize_image(image, (1.0,) * 3, (2.0,) * 3)
    output: Any = model.apply(variables, image, **options)
    return output.logits

  return trace_function(compute, variables, shape)
