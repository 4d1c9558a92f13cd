"""Reads the initializers of an ONNX graph: its weights, by their names."""

import os

import numpy as np

from deeplab.pretrained.readers import limits


def read_onnx(path: str) -> dict[str, np.ndarray]:
  """Returns the initializers of a graph by name.

  Exporters keep the names of parameters, unless they fold BatchNorms into
  convolutions, whose new weights have numbers for names.

  Args:
    path: a serialized `ModelProto`.

  Raises:
    ValueError: the file is no graph, has no initializers, or keeps them in
      other files.
  """
  # It is needed for these files alone.
  from google.protobuf import message
  import onnx
  from onnx import numpy_helper

  try:
    budget = limits.ByteBudget(os.path.getsize(path))
    graph = onnx.load(path, load_external_data=False).graph
    tensors = {}
    for tensor in graph.initializer:
      if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(
          f'its tensor {tensor.name[:80]!r} lies in another file: save the '
          'model in one'
        )
      value = numpy_helper.to_array(tensor)
      budget.spend(value.nbytes)
      tensors[tensor.name] = value
    if not tensors:
      raise ValueError('it has no initializers')
  except (message.DecodeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path} is not a whole ONNX file ({error}); download it again'
    ) from None
  return tensors
