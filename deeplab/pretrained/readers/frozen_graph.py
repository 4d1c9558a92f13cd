"""Reads the constants of a frozen TensorFlow graph (.pb)."""

from collections.abc import Mapping
import math
import os
from typing import Any

import numpy as np

from deeplab.pretrained.readers import limits

# Constants with fewer elements are shapes, axes and the like.
_MIN_ELEMENTS = 2


def _count_bytes(tensor: Any) -> int:
  """Returns the size of a `TensorProto` in memory.

  One number may stand for all of them, whatever the shape says.
  """
  from tensorflow.python.framework import dtypes

  sizes = [dim.size for dim in tensor.tensor_shape.dim]
  if min(sizes, default=0) < 0:
    raise ValueError(f'a constant has the shape {sizes}')
  return math.prod(sizes) * (dtypes.as_dtype(tensor.dtype).size or 1)


def read_frozen_graph(path: str) -> Mapping[str, np.ndarray]:
  """Returns the floating-point constants of a graph by the names of its nodes.

  Freezing makes a variable a constant of its name: 'MobilenetV2/Conv/weights'.

  Args:
    path: a serialized `GraphDef`.

  Raises:
    ValueError: the file is no graph, or has no such constants.
  """
  # TensorFlow takes seconds to import.
  from google.protobuf import message
  from tensorflow.core.framework import graph_pb2
  from tensorflow.python.framework import tensor_util

  graph = graph_pb2.GraphDef()
  budget = limits.ByteBudget(os.path.getsize(path))
  constants = {}
  try:
    with open(path, 'rb') as f:
      graph.ParseFromString(f.read())
    for node in graph.node:
      if node.op == 'Const':
        tensor = node.attr['value'].tensor
        budget.spend(_count_bytes(tensor))
        constants[node.name] = tensor_util.MakeNdarray(tensor)
  except (message.DecodeError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path} is not a whole frozen graph ({error}); download it again'
    ) from None
  tensors = {
    name: value
    for name, value in constants.items()
    if value.dtype.kind == 'f' and value.size >= _MIN_ELEMENTS
  }
  if not tensors:
    raise ValueError(f'{path} is no frozen graph: it holds no weights')
  return tensors
