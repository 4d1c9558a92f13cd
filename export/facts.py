"""What the files of each format say of themselves."""

from collections.abc import Sequence
from typing import Any

import jax

from export import cards
from export import graph as graph_lib
from export import memory
from export import onnx_file
from export import saved_model


def tflite_file(data: bytes) -> dict[str, Any]:
  """Returns what the bytes of a .tflite file say."""
  graph = graph_lib.read(data)
  activations = memory.lives(graph)
  return {
    'weight_bytes': graph_lib.weight_bytes(graph),
    'peak_activation_bytes': memory.arena(activations),
    'activation_lower_bound_bytes': memory.lower_bound(activations),
    'unpacked_weight_bytes': memory.unpacked_bytes(graph),
    'macs': graph_lib.macs(graph),
    'operators': graph_lib.operators(graph),
    'operator_dtypes': graph_lib.operator_dtypes(graph),
    'input': cards.end(graph, graph.inputs[0]),
    'output': cards.end(graph, graph.outputs[0]),
  }


def saved_model_file(
  compute: saved_model.Function, shape: Sequence[int], macs: int
) -> dict[str, Any]:
  """Returns the same of a SavedModel, whose memory XLA plans when it runs."""
  image = jax.ShapeDtypeStruct((1, *shape), 'float32')
  result = jax.eval_shape(compute, image)
  end = lambda x: {
    'dtype': str(x.dtype),
    'shape': list(x.shape),
    'quantization': None,
  }
  return {
    **saved_model.describe(compute, shape),
    'peak_activation_bytes': None,
    'activation_lower_bound_bytes': None,
    'unpacked_weight_bytes': 0,
    'macs': macs,
    'input': end(image),
    'output': end(result),
  }


def made_of(kind: str, content: bytes) -> tuple[str, bytes, dict[str, Any]]:
  """Returns name, bytes and facts of a format, made of .tflite bytes."""
  facts = tflite_file(content)
  if not kind.startswith('onnx'):
    return f'{kind}.tflite', content, facts
  content = onnx_file.convert(content)
  own = onnx_file.facts(content)
  facts |= {
    'weight_bytes': own['weight_bytes'],
    'peak_activation_bytes': None,
    'activation_lower_bound_bytes': None,
    'operators': own['operators'],
    'operator_dtypes': {
      name: {f'opset {own["opset"]}': count}
      for name, count in own['operators'].items()
    },
  }
  return f'{kind}.onnx', content, facts
